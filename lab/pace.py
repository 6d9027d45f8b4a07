"""How long what is left takes, judged by what is finished."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

from lab.experiment import ExperimentItem
from lab.measurements import Item, Record, Row


class Pace:
    """Seconds an item, learned from records: of the same net, stage and method where there are any.

    Else of the same net, else of all. A parent counts with its training.
    """

    def __init__(self, records: Iterable[Record | Row] = ()) -> None:
        self._seconds: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for record in records:
            self.add(record)

    def add(self, record: Record | Row) -> None:
        """Learns from one more record."""
        for key in record.pace_keys:
            self._seconds[key].append(record.seconds)

    def seconds(self, items: Sequence[Item | ExperimentItem]) -> float | None:
        """Of all the items one after the other; None where nothing tells."""
        found = [self._of(item) for item in items]
        known = [seconds for seconds in found if seconds is not None]
        return sum(known, 0.0) if len(known) == len(found) else None

    def _of(self, item: Item | ExperimentItem) -> float | None:
        for key in item.pace_keys:
            if self._seconds[key]:
                return statistics.mean(self._seconds[key])
        return None


def in_words(seconds: float | int | None) -> str:
    """``3.4 h``, ``12 min`` or ``40 s``."""
    if seconds is None:
        return "unknown"
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
