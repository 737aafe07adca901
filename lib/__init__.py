"""Linearisation, tangent kernels and Gaussian processes of wide neural networks.

The names of this package are what the book's chapters call; each is documented where it is defined.
"""

from lib.chapter.claims import Claims, glue
from lib.chapter.estimates import power_law
from lib.chapter.keeping import checkpoint, kept
from lib.chapter.records import paper_values, provenance_line, recorded
from lib.chapter.scales import Scales, budget
from lib.chapter.sliders import slider
from lib.data import DataError, load
from lib.data.span import in_span
from lib.gp.likelihood import log_marginal_likelihood, sample
from lib.gp.prediction import ensemble, posterior, readout_ensemble
from lib.infinite.kernel import Kernel
from lib.networks.activations import (
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
from lib.networks.architectures import convolutional, fully_connected, wide_resnet
from lib.networks.convolution import Conv
from lib.networks.large import kernel_in_blocks
from lib.networks.layers import Dense, Flatten
from lib.networks.normalization import BatchNorm, LayerNorm
from lib.networks.pooling import AveragePool, GlobalAveragePool
from lib.networks.residual import Residual
from lib.networks.sequential import Sequential
from lib.scaling.effective import at_one_rate, layer_rates, scaled_init, scaled_sgd
from lib.scaling.exponents import ABC
from lib.tangent.equations import Solution, ntk_solve
from lib.tangent.expansion import linearize, taylor_expand
from lib.tangent.layerwise import empirical_ntk_by_layer
from lib.tangent.ntk import empirical_ntk, ntk_vector_product
from lib.tangent.plan import NtkPath, explain_ntk
from lib.tangent.readout import empirical_nngp
from lib.training.closed_form import (
    coefficients,
    critical_learning_rate,
    kernel_product,
    max_learning_rate,
    test_outputs,
    train_outputs,
    weight_change,
)
from lib.training.combine import averaged, decayed, then
from lib.training.filters import Filter, descent, flow
from lib.training.loop import Run, train
from lib.training.momentum import heavy_ball, momentum_flow, nesterov
from lib.training.ode import evolve
from lib.training.report import Linearity, linearity
from lib.training.spectrum import Spectrum, decompose
from lib.training.stepwise import descend

__version__ = "0.1.0"
