"""Few points of the curves and scores of each group, kept beside a plan for reports."""

from collections.abc import Mapping

import numpy as np

from mipp.records import BoolArray, ChannelGraph, Curve, FloatArray, IntArray, Keep, Trail
from mipp.selection.spend_weights import Choice

POINTS = 33
"""Points that are kept evenly along the units and, as many again, evenly along the values: more
than a line some hundred pixels wide can show, and at most two kilobytes a group in a plan's
file."""

DIGITS = 5
"""Significant digits of what is kept."""


class NatsTrails:
    """Follows the elimination of every group through the rounds."""

    def __init__(self) -> None:
        self._lost: dict[str, FloatArray] = {}
        self._cut: dict[str, int] = {}

    def follow(self, group: str, curve: Curve, keep: BoolArray) -> None:
        """One round: its curve continues where the round before has cut."""
        goes = int((~keep).sum())
        before = self._lost.get(group, np.zeros(1))[: self._cut.get(group, 0) + 1]
        self._lost[group] = np.concatenate([before, before[-1] + curve.nats_lost[1:]])
        self._cut[group] = len(before) - 1 + goes

    def trails(self) -> tuple[Trail, ...]:
        """One for each group, in the order in which they were first followed."""
        return tuple(
            _thinned(name, lost, self._cut[name], first=0) for name, lost in self._lost.items()
        )


class ScoreTrails:
    """Follows the scores of another method through the rounds."""

    def __init__(self) -> None:
        self._gone: dict[int, list[float]] = {}
        self._left: dict[int, list[float]] = {}

    def follow(self, scores: Mapping[int, FloatArray], before: Keep, after: Keep) -> None:
        """One round: what had a unit before it and what has one after it, and the scores."""
        for group, values in scores.items():
            everything = np.ones(len(values), dtype=bool)
            had, has = before.get(group, everything), after.get(group, everything)
            self._gone.setdefault(group, []).extend(np.sort(values[had & ~has]).tolist())
            self._left[group] = np.sort(values[has]).tolist()

    def trails(self, graph: ChannelGraph) -> tuple[Trail, ...]:
        """One for each group that was scored."""
        return tuple(
            _thinned(
                group.name,
                np.array(self._gone[group.index] + self._left[group.index]),
                len(self._gone[group.index]),
                first=1,
            )
            for group in graph.groups
            if group.index in self._left
        )


def _thinned(group: str, values: FloatArray, cut: int, *, first: int) -> Trail:
    """A trail of few points; the first value counts as 0 for nats, as 1 for scores."""
    where = _points(values, cut - first)
    return Trail(
        group,
        "score" if first else "nats",
        tuple((where + first).tolist()),
        tuple(float(f"{value:.{DIGITS}g}") for value in values[where]),
    )


def _points(values: FloatArray, cut: int) -> IntArray:
    """Rising indices: evenly apart, evenly along the values, and both sides of the cut."""
    last = len(values) - 1
    evenly = np.linspace(0, last, POINTS).round().astype(np.int64)
    way = np.concatenate([[0.0], np.abs(np.diff(values)).cumsum()])
    steep = np.searchsorted(way, np.linspace(0, way[-1], POINTS))
    beside = np.array([cut, cut + 1], dtype=np.int64)
    return np.unique(np.clip(np.concatenate([evenly, steep, beside]), 0, last))


def trail_of(layer: str, choice: Choice) -> Trail:
    """The nats that a layer loses with its weights, all rows at one price, at rising prices.

    The lower convex hull of what there is, down to no weight.
    """
    gains, gone = -np.diff(choice.kept, axis=1), np.diff(choice.nats, axis=1)
    steps = (gone / np.maximum(gains, 1))[gains > 0]
    prices = np.quantile(steps, np.linspace(0, 1, POINTS)) if steps.size else np.zeros(0)
    places = {choice.sums(choice.at(price)) for price in [*prices.tolist(), 2 * choice.total + 1]}
    points = sorted((choice.whole - kept, lost) for kept, lost in places | {(choice.whole, 0.0)})
    removed: list[int] = []
    values: list[float] = []
    for n, lost in points:
        if not removed or n > removed[-1]:
            removed.append(n)
            values.append(float(f"{lost:.{DIGITS}g}"))
    return Trail(layer, "nats", tuple(removed), tuple(values))
