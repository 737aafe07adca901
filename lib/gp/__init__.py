"""What do many such networks say? Posteriors and ensembles as Gaussian processes.

Whoever adds another way to condition, to sample or to judge a prior works here.
"""
