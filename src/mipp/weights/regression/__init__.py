"""Information in single weights: the nats that a layer's outputs lose when they read fewer inputs.

Output ``j`` of a layer is ``y = w'x``, seen through noise of variance ``n``. When only the inputs
``S`` are kept, with the remaining weights adapted optimally, it loses

    1/2 log((n + e) / n) nats,      e = Var(y | x_S),

and removing one more weight ``q`` adds ``w_q^2 / inverse(Cov(x_S))_qq`` to ``e``, which is the
step of the optimal brain surgeon. Derivation and limits: docs/research/weights.md.
"""

from mipp.weights.regression.approximate import Pace, Path, follow, improved
from mipp.weights.regression.exact import eliminate, follow_exactly
from mipp.weights.regression.least_squares import Pattern, Rows, best_weights, errors_left
from mipp.weights.regression.projections import alternating

__all__ = [
    "Pace",
    "Path",
    "Pattern",
    "Rows",
    "alternating",
    "best_weights",
    "eliminate",
    "errors_left",
    "follow",
    "follow_exactly",
    "improved",
]
