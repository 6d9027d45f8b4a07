"""Estimated against true mutual information, where the truth is known.

    python -m lab run information               # needs the extra: pip install -e '.[lab]'
    python -m lab show information --picture    # the tables, and the picture

Families of distributions of growing information, at several numbers of features and of rows; five
samples of each. One table, one picture (docs/img/information.svg), and in words when each estimator
can be trusted. Beside the estimators of mipp: the nearest-neighbour estimator of Kraskov,
Stoegbauer and Grassberger (KSG) as in scikit-learn (one feature, one target) and in NPEET (any
number of either).
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from sklearn.feature_selection import mutual_info_classif, mutual_info_regression

import mipp
from lab import known
from lab.experiment import Experiment, Key, Rows, Settings
from lab.experiments.panels import Panel, draw
from lab.known import Known
from lab.tables import TextTable
from mipp.information import names

REPETITIONS = 5
DIMS = (1, 2, 5, 20)
ROWS = (256, 1024, 5120)
PICTURE = Path(__file__).resolve().parents[2] / "docs" / "img" / "information.svg"

# a value is trusted where its mean is off by less than NATS or SHARE of the truth at every level
# and it spreads by less than NATS; an order where Spearman's rank correlation is RANK on average
NATS, SHARE, RANK = 0.1, 0.15, 0.9

Arrays = tuple[np.ndarray, np.ndarray]


def bent(dim: int, nats: float) -> Known:
    """The third powers of all variables of a dense normal."""
    return known.transformed(known.dense_normal(dim, nats), "cube", "cube")


def variances(dim: int, power: float) -> Known:
    """One feature whose variance is told, and others that tell nothing."""
    return known.normal_of_variance(power).with_distractors(dim - 1)


def xor(dim: int, flip: float) -> Known:
    """Two bits that tell the label together, and features that tell nothing."""
    return known.parity(2, flip).with_distractors(dim - 2)


# name: how one is made at a dimension and a level, and the levels, information rising
FAMILIES: dict[str, tuple[Callable[[int, float], Known], tuple[float, ...]]] = {
    "linear": (known.sparse_normal, (0.0, 0.1, 0.3, 1.0, 2.0)),
    "bent": (bent, (0.0, 0.1, 0.3, 1.0, 2.0)),
    "label": (lambda dim, distance: known.two_classes(distance, dim), (0.0, 0.7, 1.5, 2.5, 5.0)),
    "variance": (variances, (0.25, 0.5, 1.0, 2.0, 4.0)),
    "xor": (xor, (0.5, 0.3, 0.2, 0.1, 0.0)),
}
MEANING = {
    "linear": "X and Y normal, one pair of features correlated",
    "bent": "X and Y normal, all correlated alike; then their third powers",
    "label": "Y one of two classes, X normal around two points",
    "variance": "X\u2081 ~ N(0, Y^p), Y ~ \u03c7\u00b2(1), other features noise",
    "xor": "Y the XOR of two bits, sometimes flipped, other features noise",
}


def scikit(X: np.ndarray, Y: np.ndarray, seed: int) -> float | None:
    """KSG with three neighbours, of single features."""
    if X.shape[1] > 1:
        return None
    score = mutual_info_regression if Y.ndim == 2 else mutual_info_classif
    return float(score(X, Y.ravel(), random_state=seed)[0])


def npeet(X: np.ndarray, Y: np.ndarray, seed: int) -> float | None:
    """KSG with three neighbours; counts where all is discrete, nothing where X is mixed."""
    import npeet_plus  # noqa: PLC0415 - a peer, only in the extra

    np.random.seed(seed)  # noqa: NPY002 - breaks ties with the global generator
    whole = [bool((column == column.round()).all()) for column in X.T]
    if all(whole):
        return float(npeet_plus.midd(X, Y.reshape(len(Y), -1), base=np.e))
    if any(whole):
        return None
    if Y.ndim == 2:
        return float(npeet_plus.mi(X, Y, base=np.e))
    # the library returns the size of the difference of two entropies, its sign lost
    return float(npeet_plus.micd(X, Y[:, None], base=np.e))


def ours(name: str, X: np.ndarray, Y: np.ndarray, seed: int) -> float:
    """An estimator of mipp, with its defaults."""
    return mipp.mutual_information(X, Y, name, seed=seed)


PEERS = {"scikit-learn": scikit, "npeet": npeet}


def estimators() -> dict[str, Callable[..., float | None]]:
    """All estimators by name, in the order of the table."""
    return {name: partial(ours, name) for name in names()} | PEERS


@cache
def warmed_up(estimator: str) -> Callable[..., float | None]:
    """The estimator, called once: the first call compiles and imports."""
    estimate = estimators()[estimator]
    estimate(*known.sparse_normal(1, 0.5).sample(256), seed=0)
    return estimate


def measure(key: Key, _settings: Settings) -> dict[str, Any]:
    """Estimates of shape (levels, repetitions), the truth, and CPU seconds of one estimate."""
    dim, n = key["dim"], key["n"]
    make, levels = FAMILIES[key["family"]]
    estimate = warmed_up(key["estimator"])
    found: list[list[float]] = []
    seconds: list[float] = []
    for j, level in enumerate(levels):
        one = make(dim, level)
        found.append([])
        for r in range(REPETITIONS):
            X, Y = one.sample(n, seed=100 * r + j)
            started = time.process_time()
            value = estimate(X, Y, seed=r)
            seconds.append(time.process_time() - started)
            if value is None:
                return {"estimates": None}
            found[-1].append(round(value, 5))
    truth = [round(make(dim, level).mi, 6) for level in levels]
    return {"truth": truth, "estimates": found, "cpu_seconds": statistics.median(seconds)}


class Figures:
    """What the estimates of one record say."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        estimates, truth = np.array(row["estimates"]), np.array(row["truth"])
        self.truth, self.means = truth, estimates.mean(1)
        errors = self.means - truth
        self.bias = float(errors[np.abs(errors).argmax()])
        self.deviation = float(estimates.std(1, ddof=1).mean())
        self.rank = float(np.mean([_spearman(truth, each) for each in estimates.T]))
        close = np.abs(errors) <= np.maximum(NATS, SHARE * truth)
        self.value_is_good = bool(close.all()) and self.deviation <= NATS
        self.order_is_good = self.rank >= RANK


def _spearman(truth: np.ndarray, estimates: np.ndarray) -> float:
    # nothing but ties is no agreement
    return 0.0 if np.ptp(estimates) == 0 else float(stats.spearmanr(truth, estimates)[0])


Found = dict[tuple[str, int, int, str], Figures]


def cells(family: str) -> Sequence[int]:
    """The numbers of features that a family has."""
    return [dim for dim in DIMS if family != "xor" or dim > 1]


def read(rows: Rows) -> tuple[Found, list[str]]:
    """What the records say, and the estimators that they are of."""
    found: Found = {
        (r["family"], r["dim"], r["n"], r["estimator"]): Figures(r)
        for r in rows
        if r["estimates"] is not None
    }
    return found, [e for e in estimators() if any(key[3] == e for key in found)]


def tables(rows: Rows) -> Iterator[TextTable | str]:
    """The table at the largest number of rows, the cost, and the verdicts."""
    n = ROWS[-1]
    found, columns = read(rows)
    yield TextTable("", ["family", "what it is"], list(MEANING.items()))
    title = (
        "Bias where it is largest ± standard deviation, in nats; in brackets, rank correlation "
        f"with the truth. There are {n} rows, and X has so many features (and Y in the first two "
        "families)"
    )
    lines = [
        [family, str(dim), *(_cell(found.get((family, dim, n, e))) for e in columns)]
        for family in FAMILIES
        for dim in cells(family)
    ]
    yield TextTable(title, ["family", "features", *columns], lines)
    title = "CPU time of one estimate, as a multiple of `gaussian`"
    yield TextTable(title, ["features", "rows", *columns], _costs(rows, columns))
    yield "\n".join(verdicts(found, columns))


def picture(rows: Rows) -> Path:
    """Draws the estimates over the truth."""
    PICTURE.write_text(_picture(*read(rows)))
    return PICTURE


def _cell(figures: Figures | None) -> str:
    if figures is None:
        return "-"
    return f"{figures.bias:+.2f} ± {figures.deviation:.2f} ({figures.rank:.2f})"


def _costs(rows: Rows, columns: Sequence[str]) -> list[list[str]]:
    def seconds(dim: int, n: int, estimator: str) -> float | None:
        some = [
            row["cpu_seconds"]
            for row in rows
            if (row["dim"], row["n"], row["estimator"]) == (dim, n, estimator)
            and row["estimates"] is not None
            and row["family"] != "xor"
        ]
        return statistics.median(some) if some else None

    lines = []
    for dim in DIMS:
        for n in ROWS:
            base = seconds(dim, n, "gaussian")
            costs = [seconds(dim, n, e) for e in columns]
            shown = ["-" if c is None or not base else _ratio(c / base) for c in costs]
            lines.append([str(dim), str(n), *shown])
    return lines


def _ratio(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _picture(found: Found, columns: Sequence[str], dim: int = 5) -> str:
    """Mean estimates over the truth: a row of panels a number of rows, a column a family."""
    seen = [e for e in columns if any(key[1] == dim and key[3] == e for key in found)]
    rows = []
    for n in ROWS:
        panels = []
        for family in FAMILIES:
            some = {e: found[family, dim, n, e] for e in seen if (family, dim, n, e) in found}
            drawn = {e: list(zip(f.truth, f.means, strict=True)) for e, f in some.items()}
            most = max((f.truth[-1] for f in some.values()), default=1.0)
            high = float(np.ceil(10 * most) / 10)
            panels.append(Panel(f"{family}, {n} rows", drawn, -0.1 * high, high))
        rows.append(panels)
    return draw(rows, seen, f"true nats; X has {dim} features", "estimated nats, mean of five")


def verdicts(found: Found, columns: Sequence[str]) -> list[str]:
    """In words, from the figures and the thresholds, when each estimator can be trusted."""
    out = [
        f"A value is trusted where its mean is within {NATS:g} nats or {SHARE:.0%} of the truth at "
        f"every level and its standard deviation is at most {NATS:g} nats. An order is trusted "
        f"where the mean rank correlation is at least {RANK:g}. A number of rows stands where that "
        "holds for it and every larger one that was measured.",
        "",
    ]
    for estimator in columns:
        values: dict[str, list[str]] = {}
        orders: dict[str, list[str]] = {}
        for family in FAMILIES:
            by = {
                dim: {n: found[family, dim, n, estimator] for n in ROWS}
                for dim in cells(family)
                if all((family, dim, n, estimator) in found for n in ROWS)
            }
            if not by:
                continue
            value = _from(
                {d: {n: f.value_is_good for n, f in row.items()} for d, row in by.items()}
            )
            order = _from(
                {d: {n: f.order_is_good for n, f in row.items()} for d, row in by.items()}
            )
            values.setdefault(value, []).append(family)
            orders.setdefault(order, []).append(family)
        for what, phrases in (("values", values), ("order", orders)):
            out.append(f"* {estimator}, {what}:")
            out += [f"    - {', '.join(families)}: {when}" for when, families in phrases.items()]
    return out


def _from(good: Mapping[int, Mapping[int, bool]]) -> str:
    """From how many rows on it is good, by number of features."""
    first: dict[int | None, list[int]] = {}
    for dim, by_rows in good.items():
        least: int | None = None
        for n in sorted(by_rows, reverse=True):
            if not by_rows[n]:
                break
            least = n
        first.setdefault(least, []).append(dim)
    parts = []
    for rows, dims in sorted(first.items(), key=lambda item: item[0] or 10**9):
        where = ", ".join(map(str, dims)) + (" feature" if dims == [1] else " features")
        everywhere = len(first) == 1
        when = "never" if rows is None else f"from {rows} rows"
        parts.append(when if everywhere else f"{when} with {where}")
    return " and ".join(parts)


def items(_settings: Settings) -> Iterator[Key]:
    """Estimator by estimator."""
    for estimator in estimators():
        for family in FAMILIES:
            for dim, n in itertools.product(cells(family), ROWS):
                yield {"family": family, "dim": dim, "n": n, "estimator": estimator}


EXPERIMENT = Experiment(
    name="information",
    title="Estimated against true mutual information, where the truth is known",
    items=items,
    measure=measure,
    tables=tables,
    picture=picture,
    threads=1,
)
