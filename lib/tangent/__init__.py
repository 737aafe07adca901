"""What is a network near θ₀? Its expansion in the weights, and the kernel Θ̂ of its gradients, whole or as products.

Whoever finds a cheaper way to Θ̂ adds it here, with its cost in `plan`.
"""
