"""Accuracy against what is left, who is best where, and what it took."""

from collections.abc import Callable, Sequence

from lab.measurements import Record
from lab.report import provenance, rows
from lab.report.cells import marked, marked_columns, number, percent, significant
from mipp.report.figures import Axis, Choice, Figure, Point, Series, View
from mipp.report.tables import Cell, Row, Summary, Table, count

SD = "Error bars and ±: standard deviation (n − 1) over seeds."

LEFT = {
    "units": ("node ratio", "units removed (node ratio)"),
    "macs": ("MACs", "multiply-accumulates left"),
    "params": ("parameters", "parameters left"),
}
"""Resource -> words of the button, title of the axis."""

INFORMATION = "information"


def figure(setting: str, records: Sequence[Record]) -> Figure | None:
    """Accuracy of one net in one setting, against every resource. None: nothing was measured."""
    outcomes = _outcomes(records)
    resources = [name for name in LEFT if any(_left(name)(record) for record in records)]
    if not outcomes or not resources:
        return None
    views = tuple(
        _view(records, outcome, resource) for outcome in outcomes for resource in resources
    )
    level = _unpruned(records)
    whole = (
        "" if level is None else f" The dashed line is the unpruned net, {percent(level).text} %."
    )
    return Figure(
        title=f"Accuracy: {setting}",
        caption="Test accuracy against what is left, on a logarithmic scale; each mark is a mean "
        f"over seeds at one budget, in both directions. {SD}{whole}",
        choices=(
            Choice("accuracy", tuple((name, _WORDS[name]) for name in outcomes)),
            Choice("against", tuple((name, LEFT[name][0]) for name in resources)),
        ),
        views=views,
        tables={(name,): _table(records, name) for name in outcomes},
        made=provenance.facts(records),
    )


def standing(records: Sequence[Record]) -> Table | None:
    """Where MIPP stands among the others, at every budget of every setting; None without it."""
    made = []
    for setting, mine in rows.together(records, rows.setting_of):
        outcomes = [name for name in _outcomes(mine) if name != INFORMATION]
        for budget in rows.budgets_of(mine):
            here = [record for record in mine if record.item.budget == budget]
            row = _standing(here, outcomes[0]) if outcomes else None
            if row is not None:
                words = (Cell(budget), Cell(rows.RETRAINED[outcomes[0]]))
                made.append(Row(setting, (*words, *row)))
    if not made:
        return None
    note = (
        "Accuracy in %, mean ± standard deviation over seeds; the better of the two is bold. The "
        "others are all methods here but MIPP's own variants, with nets trained from scratch."
    )
    columns = ("budget", "accuracy", "mipp", "best other", "which", "difference", "place")
    return Table("setting", columns, tuple(made), note, is_methods=False, name="standing")


def took(records: Sequence[Record]) -> Table | None:
    """Seconds, memory, training of the method's own, and emptied layers."""
    reads: dict[str, tuple[Callable[[Record], float | None], float]] = {
        "seconds to choose units": (lambda r: r.result.seconds.plan, 1.0),
        "peak memory, MB": (lambda r: r.result.peak_memory, 1e-6),
        "epochs of its own": (
            lambda r: None if r.result.own_training is None else r.result.own_training.epochs,
            1.0,
        ),
        "runs with an empty layer, %": (_emptied, 100.0),
        "layers with one unit": (_at_floor, 1.0),
    }
    shown = {
        title: how for title, how in reads.items() if any(how[0](r) is not None for r in records)
    }
    if "seconds to choose units" not in shown:
        return None
    made = [
        Row(
            label,
            tuple(
                significant(rows.mean_of(mine, read), scale=scale) for read, scale in shown.values()
            ),
        )
        for label, mine in rows.by_label(records).items()
        if label
    ]
    note = (
        "Mean ± standard deviation over seeds and budgets. The least of each column, hidden rows "
        "too, is bold."
    )
    return Table("method", tuple(shown), marked_columns(made, "lower"), note, name="what-it-took")


_WORDS = rows.RETRAINED | {INFORMATION: "information kept"}


def _outcomes(records: Sequence[Record]) -> list[str]:
    told = any(_information(record) is not None for record in records)
    return rows.outcomes_of(records) + ([INFORMATION] if told else [])


def _read(outcome: str) -> Callable[[Record], float | None]:
    return _information if outcome == INFORMATION else rows.accuracy_of(outcome)


def _information(record: Record) -> float | None:
    """Share of the nats that is kept, over all groups; only where one yardstick measured it."""
    nats = record.result.nats
    if record.item.kind != "ablation" or not nats:
        return None
    before, lost = (sum(values) for values in zip(*nats.values(), strict=True))
    return 1 - lost / before if before > 0 else None


def _unpruned(records: Sequence[Record]) -> Summary | None:
    """Over seeds: each has one unpruned net, whatever was made of it."""
    nets = {r.item.seed: r for r in records if rows.accuracy_of("unpruned")(r) is not None}
    return rows.mean_of(list(nets.values()), rows.accuracy_of("unpruned"))


def _left(resource: str) -> Callable[[Record], float | None]:
    def read(record: Record) -> float | None:
        left = record.result.left
        if left is None:
            return None
        share: float = getattr(left, resource)
        return 1 - share if resource == "units" else share

    return read


def _view(records: Sequence[Record], outcome: str, resource: str) -> View:
    series = []
    for label, mine in rows.by_label(records).items():
        points = []
        for budget in rows.budgets_of(mine):
            here = [record for record in mine if record.item.budget == budget]
            x, y = rows.mean_of(here, _left(resource)), rows.mean_of(here, _read(outcome))
            if x is not None and y is not None:
                points.append(Point(x.mean, y, _hover(label, budget, here, outcome, y)))
        if points:
            series.append(Series(label, tuple(sorted(points, key=lambda p: float(p.x)))))
    level = _unpruned(records)
    title = "share of nats kept" if outcome == INFORMATION else f"test accuracy, {_WORDS[outcome]}"
    return View(
        choice=(outcome, resource),
        x=Axis(LEFT[resource][1], "removed" if resource == "units" else "left", reverse=True),
        y=Axis(title, "percent"),
        series=tuple(series),
        level=None if level is None or outcome == INFORMATION else ("unpruned", level.mean),
    )


def _hover(label: str, budget: str, here: Sequence[Record], outcome: str, y: Summary) -> str:
    lines = [f"<b>{label}</b>, {budget}", f"{_WORDS[outcome]}: {percent(y, 2).text} % (n = {y.n})"]
    for name, (words, _) in LEFT.items():
        share = rows.mean_of(here, _left(name))
        if share is not None:
            lines.append(f"{words} {percent(share).text} %" + " left" * (name != "units"))
    return "<br>".join(lines)


def _table(records: Sequence[Record], outcome: str) -> Table:
    budgets = rows.budgets_of(records)
    made = []
    for label, mine in rows.by_label(records).items():
        cells = [
            percent(rows.mean_of([r for r in mine if r.item.budget == budget], _read(outcome)))
            for budget in budgets
        ]
        if any(cell.value is not None for cell in cells):
            made.append(Row(label, tuple(cells)))
    note = (
        f"{_WORDS[outcome].capitalize()}, in %: mean ± standard deviation over seeds. The best at "
        "each budget, of all methods, hidden ones too, is bold; what is within its deviation is "
        "underlined."
    )
    return Table("method", tuple(budgets), marked_columns(made, "higher"), note, name=outcome)


def _standing(here: Sequence[Record], outcome: str) -> list[Cell] | None:
    read = rows.accuracy_of(outcome)
    found = {label: rows.mean_of(mine, read) for label, mine in rows.by_label(here).items()}
    known = {label: value for label, value in found.items() if value is not None}
    mine = known.get("mipp")
    own = {rows.label_of(r) for r in here if r.item.method and r.item.method.name[:4] == "mipp"}
    own -= {label for label in own if label.startswith("scratch")}
    others = {label: value for label, value in known.items() if label not in own}
    if mine is None or not others:
        return None
    best = max(others, key=lambda label: others[label].mean)
    place = 1 + sum(value.mean > mine.mean for value in others.values())
    gap = Summary(mine.mean - others[best].mean, mine.n)
    first, second = marked([percent(mine), percent(others[best])], "higher")
    points = number(gap, scale=100.0)
    signed = Cell(f"{100 * gap.mean:+.1f}".replace("-", "−"), points.value, scale=100.0)
    return [first, second, Cell(best), signed, count(place, f"{place} of {len(others) + 1}")]


def _emptied(record: Record) -> float | None:
    collapsed = record.result.collapsed
    return None if collapsed is None else float(bool(collapsed))


def _at_floor(record: Record) -> float | None:
    floor = record.result.at_floor
    return None if floor is None else float(len(floor))
