"""What does a layer do to a covariance? Gaussian integrals, and the kernels that they make of infinitely wide layers.

Whoever adds a nonlinearity with a dual in closed form, or another way to integrate one without, works here.
"""
