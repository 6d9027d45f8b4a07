"""The report of one or several suites: which figures there are follows from the kinds of items."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lab.measurements import Record
from lab.report import accuracy, collapse, costs, layers, provenance, rows, scarce
from lab.report.cells import percent, significant
from lab.report.method_styles import styles_of
from mipp.errors import InputError
from mipp.report.figures import Figure
from mipp.report.page import Facts, Page, Section
from mipp.report.tables import Row, Table, count


@dataclass(frozen=True)
class SuiteRecords:
    """What is shown of one suite: its ``title``, what it is ``about``, and its records."""

    name: str
    title: str
    about: str
    records: tuple[Record, ...]


PARENT = "parent"
"""Kind of the records of trained nets before pruning."""


def suites_page(suites: Sequence[SuiteRecords]) -> str:
    """The HTML of one report of all the suites, in their order.

    Raises:
        InputError: no suite, or one without records; Plotly is not installed.
    """
    if not suites:
        raise InputError("A report was asked of no suite; expected one at least. Name a suite.")
    for suite in suites:
        if not suite.records:
            raise InputError(
                f"suite {suite.name} has no records; expected one at least. Run it first: "
                f"python -m lab run {suite.name}."
            )
    told = [record for suite in suites for record in suite.records]
    methods = [rows.method_of(record.item) for record in told]
    names = ", ".join(suite.title for suite in suites)
    return Page(
        title=suites[0].title if len(suites) == 1 else "Benchmarks of mipp",
        lead="" if len(suites) == 1 else f"{names}.",
        sections=tuple(_section(suite) for suite in suites),
        styles=styles_of(method for method in methods if method is not None),
        footer=f"{len(told)} measurements. Made by python -m lab report; this file is complete and "
        "loads nothing.",
    ).html()


def _section(suite: SuiteRecords) -> Section:
    records = rows.latest(suite.records)
    pruned = [record for record in records if record.item.kind != PARENT]
    parts: list[Figure | Table | Facts] = []
    table = accuracy.standing(pruned)
    if table is not None:
        parts.append(table)
    for kind, mine in rows.together(pruned, lambda record: record.item.kind):
        parts += _of_kind(kind, mine)
    parents = [record for record in records if record.item.kind == PARENT]
    if parents:
        parts.append(_parents(parents))
    parts.append(Facts(f"How {suite.name} was made", tuple(provenance.facts(records))))
    return Section(suite.title, suite.about, tuple(parts))


def _of_kind(kind: str, records: Sequence[Record]) -> list[Figure | Table | Facts]:
    if kind == "cost":
        return [figure for figure in [costs.figure(records)] if figure is not None]
    if kind == "scarce":
        return [
            figure
            for setting, mine in rows.together(records, _one_budget)
            for figure in scarce.figures(setting, mine)
        ]
    drawn: dict[str, tuple[Callable[[str, Sequence[Record]], Figure | None], ...]] = {
        "collapse": (collapse.figure, layers.figure),
        "layers": (layers.figure,),
    }
    parts: list[Figure | Table | Facts] = []
    for setting, mine in rows.together(records, rows.setting_of):
        made = [draw(setting, mine) for draw in drawn.get(kind, (accuracy.figure, layers.figure))]
        parts += [figure for figure in made if figure is not None]
        table = None if kind in drawn else accuracy.took(mine)
        parts += [] if table is None else [table]
    return parts


def _one_budget(record: Record) -> str:
    """Net, stage and budget, whatever images there were."""
    plain = record.model_copy(
        update={"item": record.item.model_copy(update={"fraction": None, "imbalance": None})}
    )
    return f"{rows.setting_of(plain)}, {record.item.budget}"


def _parents(records: Iterable[Record]) -> Table:
    made = []
    for setting, mine in rows.together(records, rows.setting_of):
        costs_of = [r.result.cost.before for r in mine if r.result.cost is not None]
        cells = (
            count(mine[0].item.net.epochs),
            percent(rows.mean_of(mine, rows.accuracy_of("unpruned")), 2),
            *((count(costs_of[0].params), count(costs_of[0].macs)) if costs_of else ()),
            significant(rows.mean_of(mine, lambda record: record.result.seconds.total)),
        )
        made.append(Row(setting, cells))
    wide = max(len(row.cells) for row in made)
    columns: tuple[str, ...] = (
        "epochs", "accuracy, %", "parameters", "MACs", "seconds to train",
    )  # fmt: skip
    if wide < len(columns) or any(len(row.cells) < wide for row in made):
        columns = (*columns[:2], columns[-1])
        made = [Row(row.label, (*row.cells[:2], row.cells[-1])) for row in made]
    note = "The nets before pruning: mean ± standard deviation over seeds."
    return Table("net", columns, tuple(made), note, is_methods=False, name="parents")
