"""The tables of `docs/reference/support.md`, out of what tracing the zoo finds."""

import re
from collections.abc import Iterable
from pathlib import Path

from .entry import ZOO, Entry
from .tracing import Case

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "support.md"
N_LISTED = 3
"""Entries that are named for an op: the first ones of the zoo."""
_OUTPUT = "it is part of the model's output"


def row(case: Case) -> str:
    """An entry's row: its family and name, its groups with their units, what stays and why."""
    start = f"| {case.entry.family} | {case.entry.name} | "
    if case.graph is None:
        return f"{start}none | {_short(case.error.splitlines()[0])} |"
    units = ", ".join(f"`{group.name}` {group.n_units}" for group in case.graph.groups)
    names: dict[str, list[str]] = {}
    for item in case.graph.refused:
        if not item.reason.startswith(_OUTPUT):
            of = names.setdefault(_short(item.reason), [])
            if f"`{item.name}`" not in of:
                of.append(f"`{item.name}`")
    stays = "; ".join(f"{', '.join(of)}: {reason}" for reason, of in names.items())
    return f"{start}{units} | {stays or 'the outputs alone'} |"


def _short(reason: str) -> str:
    """Without the place, which changes with every line of the zoo."""
    return re.split(r" \((?:aten|at )|: (?:every|Guard)", reason)[0].replace("|", "or").rstrip(". ")


def op_rows(cases: Iterable[Case]) -> list[str]:
    """A row for each op: what its rule does, and the first entries that have it."""
    says: dict[str, str] = {}
    where: dict[str, list[str]] = {}
    for case in cases:
        for op, text in case.ops.items():
            says[op] = text
            where.setdefault(op, []).append(case.entry.name)
    return [
        f"| `{op}` | {says[op]} | {'; '.join(where[op][:N_LISTED])} |"
        for op in sorted(says, key=lambda name: (says[name].startswith("no rule"), name))
    ]


def write(cases: list[Case]) -> None:
    """Put both tables in their places on the page."""
    text = PAGE.read_text()
    for name, rows in (("architectures", [row(case) for case in cases]), ("ops", op_rows(cases))):
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        after = rest[rest.index("<!-- end -->") :]
        text = f"{before}<!-- {name} -->\n{_head(name)}{chr(10).join(rows)}\n{after}"
    PAGE.write_text(text)


def _head(name: str) -> str:
    if name == "ops":
        return "| op | what its rule does | in the zoo, for example |\n|---|---|---|\n"
    return (
        "| family | architecture | groups that are pruned, and their units "
        "| what stays besides the outputs |\n|---|---|---|---|\n"
    )


def written(name: str) -> list[str]:
    """The rows on the page, without the head."""
    _, _, rest = PAGE.read_text().partition(f"<!-- {name} -->\n{_head(name)}")
    return rest[: rest.index("<!-- end -->")].splitlines()


def written_ops() -> dict[str, tuple[str, list[str]]]:
    """Op -> what the page says of it, and the entries named."""
    cells = [line.strip("| ").split(" | ") for line in written("ops")]
    return {op.strip("`"): (says, names.split("; ")) for op, says, names in cells}


def entries_before(entry: Entry) -> set[str]:
    """Names of the entries that come before one."""
    names = list(ZOO)
    return set(names[: names.index(entry.name)])
