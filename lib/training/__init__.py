"""What does training do to it? The linear model after any time, by filters or step by step; and the network itself.

Whoever adds an optimiser as a filter, or another way through time, works here.
"""
