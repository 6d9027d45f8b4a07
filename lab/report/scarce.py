"""Accuracy where training images are few, or few of some classes."""

from collections.abc import Callable, Sequence

from lab.measurements import Record
from lab.report import provenance, rows
from lab.report.cells import marked_columns, percent
from mipp.report.figures import Axis, Choice, Figure, Point, Series, View
from mipp.report.tables import Row, Table

PLAIN, BALANCED = "plain", "balanced"
_MEASURES = {PLAIN: "accuracy", BALANCED: "balanced accuracy"}


def figures(setting: str, records: Sequence[Record]) -> list[Figure]:
    """One figure over fractions and one over imbalances, for one net, stage and budget.

    What was measured on all images and classes alike is the end of both.
    """
    few = [record for record in records if record.item.imbalance is None]
    uneven = [record for record in records if record.item.fraction is None]
    made = (
        _figure(f"Few images: {setting}", few, _fraction, "training images", _percent_words),
        _figure(f"Uneven classes: {setting}", uneven, _imbalance, "imbalance", _ratio_words),
    )
    return [figure for figure in made if figure is not None]


def _fraction(record: Record) -> float:
    return 1.0 if record.item.fraction is None else record.item.fraction


def _imbalance(record: Record) -> float:
    return float(record.item.imbalance or 1)


def _percent_words(value: float) -> str:
    return f"{100 * value:g} %"


def _ratio_words(value: float) -> str:
    return f"1:{value:g}"


def _figure(
    title: str,
    records: Sequence[Record],
    where: Callable[[Record], float],
    axis: str,
    words: Callable[[float], str],
) -> Figure | None:
    places = sorted({where(record) for record in records})
    shown = [
        (measure, outcome)
        for measure in _MEASURES
        for outcome in rows.outcomes_of(records, balanced=measure == BALANCED)
    ]
    if len(places) < 2 or not shown:
        return None
    measures = dict.fromkeys(measure for measure, _ in shown)
    outcomes = dict.fromkeys(outcome for _, outcome in shown)
    names = tuple(words(place) for place in places)
    return Figure(
        title=title,
        caption="Parents and retraining learn from no other images. Balanced: the mean over "
        "classes of the share of right answers. Error bars and ±: standard deviation (n − 1) over "
        "seeds.",
        choices=(
            Choice("measure", tuple((name, _MEASURES[name]) for name in measures)),
            Choice("accuracy", tuple((name, rows.RETRAINED[name]) for name in outcomes)),
        ),
        views=tuple(
            View(
                choice,
                Axis(axis, "names", names),
                Axis(f"test {_MEASURES[choice[0]]}, {rows.RETRAINED[choice[1]]}", "percent"),
                tuple(_series(records, where, words, choice)),
            )
            for choice in shown
        ),
        tables={choice: _table(records, where, names, words, choice) for choice in shown},
        made=provenance.facts(records),
    )


def _series(
    records: Sequence[Record],
    where: Callable[[Record], float],
    words: Callable[[float], str],
    choice: tuple[str, str],
) -> list[Series]:
    read = rows.accuracy_of(choice[1], balanced=choice[0] == BALANCED)
    made = []
    for label, mine in rows.by_label(records).items():
        points = []
        for place in sorted({where(record) for record in mine}):
            y = rows.mean_of([r for r in mine if where(r) == place], read)
            if y is not None:
                hover = f"<b>{label}</b>, {words(place)}<br>{percent(y, 2).text} % (n = {y.n})"
                points.append(Point(words(place), y, hover))
        if points:
            made.append(Series(label, tuple(points)))
    return made


def _table(
    records: Sequence[Record],
    where: Callable[[Record], float],
    names: tuple[str, ...],
    words: Callable[[float], str],
    choice: tuple[str, str],
) -> Table:
    read = rows.accuracy_of(choice[1], balanced=choice[0] == BALANCED)
    made = [
        Row(
            label,
            tuple(
                percent(rows.mean_of([r for r in mine if words(where(r)) == name], read))
                for name in names
            ),
        )
        for label, mine in rows.by_label(records).items()
    ]
    note = (
        f"{_MEASURES[choice[0]].capitalize()} in %, {rows.RETRAINED[choice[1]]}: mean ± standard "
        "deviation over seeds. The best of each column, hidden rows too, is bold; what is within "
        "its deviation is underlined."
    )
    return Table(
        "method", names, marked_columns(made, "higher"), note, name=f"{choice[0]}-{choice[1]}"
    )
