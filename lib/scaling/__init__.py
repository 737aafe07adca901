"""What does width do to each layer's weights? Exponents of their size and of their rates, and networks that obey them.

Whoever adds a parameterisation adds a constructor in `exponents`; nothing else knows of names.
"""
