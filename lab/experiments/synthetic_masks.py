"""What masks say about the task they were made for, in nats, and how two columns go together.

``I(T; M)``: between the task ``T`` (even over ``K`` tasks) and the mask ``M`` that a method returns
for a sample of it. For every model ``q`` of the task given the mask,

    I(T; M) = log K - H(T | M) >= log K - E[-log q(T | M)],

since a cross-entropy is never below the entropy. With ``q`` fitted to other repetitions than those
it is tested on, the right side is a lower bound in expectation; it is ``log K`` for masks that name
the task without fail. ``T - D - M`` is a Markov chain (the method sees the data ``D``, not the
task), so that it bounds ``I(D; M)`` from below as well. What ``M`` says of the sample beyond its
task is not counted: a method that memorised its sample would gain nothing by it.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.linear_model import LogisticRegression

STRENGTHS = (0.1, 10.0)
"""Inverse strength of the L2 penalty of ``q``; the better one, or knowing nothing, is chosen on the
repetitions that ``q`` is fitted to."""
HEDGE = 0.02
"""Share of even odds mixed into ``q``: no single surprise costs more than ``log(K / HEDGE)``. Masks
that name the task without fail come out about ``HEDGE`` below ``log K``."""

Bits = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def nats_about_task(masks: Bits, task: Ints, repetition: Ints) -> float:
    """Lower bound of ``I(T; M)`` in nats, held out by repetition; below zero counts as zero.

    Parameters:
        masks: shape (n, bits), a mask a row.
        task: shape (n,), from 0; every task as often as any other.
        repetition: shape (n,); all masks of one are tested on what was fitted to the others.
    """
    n_tasks = int(task.max()) + 1
    losses = [
        _losses(masks, task, repetition, repetition == held, n_tasks)
        for held in np.unique(repetition)
    ]
    return max(0.0, math.log(n_tasks) - float(np.concatenate(losses).mean()))


def distinct(masks: Bits) -> int:
    """How many different masks there are."""
    return len(np.unique(masks, axis=0))


def correlation(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Pearson's and Spearman's; NaN where one of the two never changes."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan"), float("nan")
    return float(stats.pearsonr(x, y).statistic), float(stats.spearmanr(x, y).statistic)


def _losses(masks: Bits, task: Ints, repetition: Ints, held: Bits, n_tasks: int) -> Floats:
    """-log q of the held-out tasks, ``q`` fitted to and chosen on the rest."""
    inner = [repetition == r for r in np.unique(repetition[~held])]
    best, least = None, math.log(n_tasks)
    for strength in STRENGTHS:
        found = [
            _surprise(masks, task, ~held & ~part, ~held & part, n_tasks, strength)
            for part in inner[:3]
        ]
        loss = float(np.concatenate(found).mean())
        if loss < least:
            best, least = strength, loss
    return _surprise(masks, task, ~held, held, n_tasks, best)


def _surprise(
    masks: Bits, task: Ints, fit: Bits, test: Bits, n_tasks: int, strength: float | None
) -> Floats:
    if strength is None:
        return np.full(int(test.sum()), math.log(n_tasks))
    model = LogisticRegression(C=strength, max_iter=1000)
    model.fit(masks[fit].astype(float), task[fit])
    said = np.zeros((int(test.sum()), n_tasks))
    said[:, model.classes_] = model.predict_proba(masks[test].astype(float))
    hedged = (1 - HEDGE) * said + HEDGE / n_tasks
    return -np.log(hedged[np.arange(len(hedged)), task[test]])
