"""How many nats a consumer would lose with each unit."""

from mipp.information.estimator import ConsumerView, Estimator
from mipp.information.gaussian import Gaussian, GaussianScorer

__all__ = ["ConsumerView", "Estimator", "Gaussian", "GaussianScorer"]
