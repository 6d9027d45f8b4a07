"""Tables of words and numbers, for terminals and for documents."""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table

from mipp.cli.text_tables import new_table

_LABEL = 30
"""Characters of a label of a wide table before it is folded."""

_GAP = 2
"""Characters between two columns."""


@dataclass(frozen=True)
class TextTable:
    """A table whose cells are text.

    Attributes:
        title: What stands above it; empty for none.
        columns: Names of all columns, the first one's too.
        rows: A cell for each of ``columns``.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """A Markdown table under its title."""
        lines = [f"{self.title}\n"] if self.title else []
        lines += [_line(self.columns), "|---" * len(self.columns) + "|"]
        return "\n".join([*lines, *map(_line, self.rows)])


def in_parts(table: TextTable, width: int) -> Iterator[Table]:
    """The table for a terminal, in tables at most ``width`` wide.

    Where all columns do not fit beside each other, the rest follows in tables with the same labels.
    """
    labels = [row[0] for row in table.rows]
    label = min(_LABEL, max(map(len, labels), default=0))
    wide = [
        max(len(name), *(len(row[index]) for row in table.rows)) + _GAP
        for index, name in enumerate(table.columns[1:], 1)
    ]
    start = 0
    while start < len(wide):
        end, left = start, width - label - _GAP
        while end < len(wide) and (wide[end] <= left or end == start):
            left -= wide[end]
            end += 1
        columns = table.columns[1 + start : 1 + end]
        made = new_table(table.columns[0], **dict.fromkeys(columns, "right"))
        for row in table.rows:
            made.add_row(row[0], *row[1 + start : 1 + end])
        yield made
        start = end


def spread(values: Iterable[float], scale: float | int = 100.0, digits: int = 1) -> str:
    """Mean and standard deviation over seeds, in percent (or times another ``scale``)."""
    found = [scale * value for value in values]
    if not found:
        return "-"
    if len(found) == 1:
        return f"{found[0]:.{digits}f}"
    return f"{statistics.mean(found):.{digits}f} ± {statistics.stdev(found):.{digits}f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
