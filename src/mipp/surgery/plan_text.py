"""Parts of a plan in words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def few_rows_lines(options: Mapping[str, Any]) -> list[str]:
    """A line of the layers that had fewer rows than features, or none."""
    found = options.get("few_rows")
    pairs = found.items() if isinstance(found, Mapping) else ()
    listed = [f"{name} ({' for '.join(map(str, pair))})" for name, pair in pairs
              if isinstance(pair, Sequence)]  # fmt: skip
    if not listed:
        return []
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return [f"too few examples, rows for features: {', '.join(listed[:3])}{more}"]


def information(before: float, after: float) -> str:
    """Share of the nats that is left, and how many there were; nothing where none were measured."""
    known = not (np.isnan(before) or np.isnan(after))
    return f", {share(before, after)} of {before:.4g} nats" if known else ""


def latency(before: float | None, after: float | None, how: object) -> list[str]:
    """A line of what was measured, or none."""
    if before is None or after is None:
        return []
    line = f"latency: {before:.4g} -> {after:.4g} ms ({share(before, after)} left)"
    if isinstance(how, Mapping):
        scatter = how.get("scatter_ms") or [None, None]
        line += f", measured on {how.get('device')} at batch size {how.get('batch')}"
        line += f", threads: {how.get('threads')}"
        line += f", ± {scatter[1]:.2g} ms" if scatter[1] is not None else ""
    return [line]


def share(before: float, after: float) -> str:
    """What is left, in percent."""
    return "100.0%" if before == after else f"{after / before:.1%}" if before else "n/a"
