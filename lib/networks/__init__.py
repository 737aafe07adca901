"""What is trained, declared once with two faces? Layers and whole networks, as Flax modules that know their kernel.

Whoever adds a layer or an architecture gives both faces here.
"""
