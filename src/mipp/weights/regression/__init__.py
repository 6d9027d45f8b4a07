"""Information in single weights: what a layer's outputs still tell when each reads fewer inputs.

Output ``j`` of a layer is ``y = w'x``, seen through noise of variance ``n``. Kept on the inputs
``S``, with the weights that remain adapted in the best way, it loses

    1/2 log((n + e) / n) nats,      e = Var(y | x_S),

and taking one more weight ``q`` away adds ``w_q^2 / inverse(Cov(x_S))_qq`` to ``e``, which is the
step of the optimal brain surgeon. Derivation and limits: docs/weights.md.
"""

from mipp.weights.regression.approximate import Path, follow
from mipp.weights.regression.exact import eliminate, follow_exactly
from mipp.weights.regression.least_squares import best_weights, errors_left
from mipp.weights.regression.problem import Pattern, Rows
from mipp.weights.regression.swap import improved

__all__ = [
    "Path",
    "Pattern",
    "Rows",
    "best_weights",
    "eliminate",
    "errors_left",
    "follow",
    "follow_exactly",
    "improved",
]
