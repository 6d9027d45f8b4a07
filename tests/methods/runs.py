"""Short trainings for the tests of methods that train."""

import copy

import numpy as np
import torch

import mipp
from mipp.methods import Question
from mipp.retrain import Recipe

from .nets import CLASSES, question

RECIPE = Recipe(epochs=4, peak_lr=0.05, schedule="constant")
"""Eight steps, two an epoch."""


def pairs(n=48):
    """Two batches that something can be learnt from."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 2, 4, 4, generator=generator)
    y = x.mean((1, 2, 3)).argsort().argsort() * CLASSES // n
    return [(x[:20], y[:20]), (x[20:], y[20:])]


def plan(model, budget, method, recipe=RECIPE, **options):
    return mipp.plan(
        model, pairs(), budget, method=method, training=mipp.Training(pairs(), recipe), **options
    )


def asked(model):
    """A question with a copy of the model in it, as a method that trains is asked."""
    whole = question(copy.deepcopy(model), batches=mipp.statistics.read_batches(pairs()))
    keep = {g.index: np.ones(g.n_units, dtype=bool) for g in whole.graph.groups}
    return Question(copy.deepcopy(model), whole.graph, whole.batches, keep=keep)


class Spending:
    """Keeps the best of all units, down to ``n`` in equal factors, and notes what it was asked."""

    def __init__(self, n):
        self.n = n
        self.shares, self.keeps = [], []

    def __call__(self, scores, keep, share):
        left = {g: units.copy() for g, units in keep.items()}
        order = [(scores[g][u], g, u) for g in left for u in np.flatnonzero(left[g]).tolist()]
        whole = sum(len(units) for units in keep.values())
        stay = round(whole * (self.n / whole) ** share)
        for _, g, u in sorted(order)[: max(0, len(order) - stay)]:
            left[g][u] = False
        self.shares.append(share)
        self.keeps.append(left)
        return left


def same_state(a, b):
    mine, other = a.state_dict(), b.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[k], other[k]) for k in mine)
