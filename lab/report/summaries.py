"""Numbers over seeds: mean, spread, and shares of runs with their intervals."""

import math
from collections.abc import Iterable

from mipp.report.tables import Summary

Z95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""


def over_seeds(values: Iterable[float | None]) -> Summary | None:
    """Mean and sample standard deviation (n - 1); None where nothing was measured."""
    found = [float(value) for value in values if value is not None]
    if not found:
        return None
    n, mean = len(found), math.fsum(found) / len(found)
    if n == 1:
        return Summary(mean, n)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in found) / (n - 1))
    return Summary(mean, n, deviation, deviation)


def share_of_runs(happened: Iterable[bool | None]) -> Summary | None:
    """Share of runs and its 95 % interval.

    The interval is Wilson's (J. Am. Stat. Assoc. 22, 1927), which has a width also where all runs
    agree.
    """
    found = [bool(value) for value in happened if value is not None]
    if not found:
        return None
    n = len(found)
    share = sum(found) / n
    middle = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    below, above = share - (middle - half), middle + half - share
    # rounding can put an end of the interval on the wrong side of 0 or 1
    return Summary(share, n, max(below, 0.0), max(above, 0.0))
