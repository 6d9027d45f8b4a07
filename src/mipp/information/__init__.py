"""How many nats a consumer would lose with each unit."""

from mipp.information import known
from mipp.information.estimate import mutual_information
from mipp.information.estimator import (
    ConsumerView,
    Estimator,
    Observations,
    Reads,
    RowShape,
    View,
)
from mipp.information.gaussian import Gaussian, GaussianScorer
from mipp.information.masked import Masked
from mipp.information.mlp import Mlp
from mipp.information.observed import observations
from mipp.information.registry import get, names, read
from mipp.information.view import consumer_view
from mipp.information.whitening import fisher_whitening, in_units_of_noise

__all__ = [
    "ConsumerView",
    "Estimator",
    "Gaussian",
    "GaussianScorer",
    "Masked",
    "Mlp",
    "Observations",
    "Reads",
    "RowShape",
    "View",
    "consumer_view",
    "fisher_whitening",
    "get",
    "in_units_of_noise",
    "known",
    "mutual_information",
    "names",
    "observations",
    "read",
]
