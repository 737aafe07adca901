"""Linearisation, tangent kernels and Gaussian processes of wide neural networks.

The names of this package are what the book's chapters call; each is documented where it is defined.
"""

from lib.activations import (
    Activation,
    absolute,
    activation,
    cos,
    erf,
    gaussian,
    gelu,
    identity,
    leaky_relu,
    polynomial,
    relu,
    sigmoid_like,
    sin,
    tanh,
)
from lib.architectures import convolutional, fully_connected, wide_resnet
from lib.blocks import kernel_in_blocks
from lib.compose import averaged, decayed, then
from lib.convolution import Conv
from lib.data import DataError, load
from lib.dynamics import (
    coefficients,
    critical_learning_rate,
    kernel_product,
    max_learning_rate,
    test_outputs,
    train_outputs,
    weight_change,
)
from lib.empirical import empirical_ntk, ntk_vector_product
from lib.evolution import evolve
from lib.filters import Filter, descent, flow
from lib.gp import ensemble, posterior, readout_ensemble
from lib.kernels import Kernel
from lib.layers import Dense, Flatten, Sequential
from lib.layerwise import empirical_ntk_by_layer
from lib.likelihood import log_marginal_likelihood, sample
from lib.linearity import Linearity, linearity
from lib.linearize import linearize, taylor_expand
from lib.momentum import heavy_ball, momentum_flow, nesterov
from lib.normalization import BatchNorm, LayerNorm
from lib.optimizers import descend
from lib.paper import paper_values
from lib.paths import NtkPath, explain_ntk
from lib.pooling import AveragePool, GlobalAveragePool
from lib.readout import empirical_nngp
from lib.records import Claims, glue, provenance_line, recorded
from lib.residual import Residual
from lib.scales import Scales, budget
from lib.slider import slider
from lib.solve import Solution, ntk_solve
from lib.span import in_span
from lib.spectrum import Spectrum, decompose
from lib.training import Run, train
