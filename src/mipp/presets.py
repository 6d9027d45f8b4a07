"""Settings that belong together, as keywords for `mipp.plan`."""

from collections.abc import Mapping
from typing import Any

from mipp import information
from mipp.selection import Confidence


def paper(confidence: float = 0.95, **changes: Any) -> dict[str, Any]:
    """MIPP as published: ``mipp.plan(model, batches, **mipp.presets.paper())``.

    Units are tested once each, worst solo predictor first, from outputs to inputs, against the
    already pruned next layer. A network predicts that layer's outputs from the group's activations
    and is briefly re-trained with the unit masked; the unit stays only if five such estimates make
    us more than ``confidence`` sure that it transfers entropy. Weights are left as they are: the
    paper retrains.

    ``confidence`` is the paper's knob x, 0.5 to 0.99: higher removes more. ``changes`` replace
    single settings, for instance ``estimator="gaussian"``.

    Source: Westphal, Hailes and Musolesi, arXiv 2411.00147, algorithms 1 and 2. What the paper
    leaves open (learning rate, how the confidence is computed) is in `Mlp` and `Confidence`. Two
    hidden layers of 64 are our choice here, as ten networks are trained for every unit, and so is
    that retraining without a unit ends with the first epoch that does not help.
    """
    settings = {
        # squared error of outputs in units of a share of their own variance: no currency is needed
        "estimator": information.Mlp(
            noise=1.0, measure="squared", hidden=(64, 64), retrain_patience=1
        ),
        "order": "ordered",
        "stop": Confidence(confidence),
        "next_layer": "pruned",
        "samples": 5120,
        "refit": False,
    }
    return change(settings, changes)


def change(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with some replaced; ``confidence`` replaces the stop rule."""
    replaced = dict(settings) | dict(changes)
    if changes.get("confidence") is not None:
        replaced.pop("stop", None)
    return replaced
