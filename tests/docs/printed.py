"""Compares what code prints with what a page says that it prints."""

import re

NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?: ?%)?")
POINTS = 3.0
"""Percentages may differ by so many points: a training is not the same on all processors."""
RATIO, STEPS = 0.35, 2.0
"""Other numbers by this share of the larger one, or by so many steps of their last digit."""


def difference(printed, stated, *, numbers=True):
    """What is different, or None. Words have to be the same; spaces and numbers may vary.

    Numbers may vary a little, or without ``numbers`` at will.
    """
    mine, theirs = (" ".join(NUMBER.sub("#", text).split()) for text in (printed, stated))
    if mine != theirs:
        return f"printed {mine!r}, stated {theirs!r}"
    pairs = zip(NUMBER.findall(printed), NUMBER.findall(stated), strict=True)
    wrong = [f"{mine} for {theirs}" for mine, theirs in pairs if not alike(mine, theirs)]
    return (", ".join(wrong) or None) if numbers else None


def alike(mine, theirs):
    """Whether a number may stand for another, both as they are printed."""
    a, b = (float(text.strip("% ").replace(",", "")) for text in (mine, theirs))
    if "%" in theirs:
        return abs(a - b) <= POINTS
    digits = theirs.partition("e")[0].partition(".")[2]
    step = 10.0 ** -len(digits) if "e" not in theirs else 0.0
    return abs(a - b) <= max(RATIO * max(abs(a), abs(b)), STEPS * step)
