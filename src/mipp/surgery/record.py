"""The record of a plan of units, as plain data, in the numbering of the model that it is for."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from mipp import refusals
from mipp.errors import FileError, InputError
from mipp.records import AxisKey, Cost, GroupSummary, IntArray, Refusal, Trail
from mipp.surgery.keeps import AttributeKeep, AxisKeep, ScaleKeep, kept_of, rises

if TYPE_CHECKING:
    from pydantic import ValidationError

FORMAT = 1
"""Version of the JSON form of a plan."""
ADVICE = "Make the plan again, or restore the file from a copy."


@runtime_checkable
class _Record(Protocol):
    def to_json(self) -> str: ...


Record = TypeVar("Record", bound=_Record)


@dataclass(frozen=True)
class PlanRecord:
    """The content of a plan; with it, and without a graph, the model can be sliced again.

    ``keep`` may be empty for a group (a collapse). No layer runs without any channel, so one unit
    then stays in ``axes`` for its shape alone, and ``zeroed`` has the indices, among those that
    ``axes`` keeps, whose weights are set to zero. ``after`` does not count it.

    Attributes:
        keep: Group name -> indices of the units that stay.
        axes: The same for every dimension that loses something.
        refused: Groups and layers that cannot be pruned, and why.
        summary: A row for each group.
        before: Cost of the whole model.
        after: Cost of the whole model after pruning.
        options: How the plan was made (method, budget, seed, ...), as JSON can hold it.
        fingerprint: Of the model it is for (see `fingerprint`). All indices count in that model,
            before anything is removed.
        mipp_version: That made the plan.
        zeroed: Indices among those in ``axes`` whose weights are set to zero.
        sizes: Attributes of modules, such as a number of heads, that change with the widths.
        scales: Rows of weights that are multiplied by a number, to keep the scale of a product that
            sums over fewer.
        inexact: Groups that lose units which norms go across -> by how much outputs on calibration
            data differ, relative to their size, from those of the model whose norms see all units.
        trails: Points of the curves or scores behind the choice, for reports alone.
        unsure: Attributes that stay, since it is not known whether they count what changes.
        uncounted: Ops that ``before`` and ``after`` leave out, since their cost is not known.
    """

    keep: Mapping[str, tuple[int, ...]]
    axes: tuple[AxisKeep, ...]
    refused: tuple[Refusal, ...]
    summary: tuple[GroupSummary, ...]
    before: Cost
    after: Cost
    options: Mapping[str, Any]
    fingerprint: str
    mipp_version: str
    zeroed: tuple[AxisKeep, ...] = ()
    sizes: tuple[AttributeKeep, ...] = ()
    scales: tuple[ScaleKeep, ...] = ()
    inexact: Mapping[str, float] = field(default_factory=dict)
    trails: tuple[Trail, ...] = ()
    unsure: Mapping[str, int] = field(default_factory=dict)
    uncounted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, units in self.keep.items():
            if not units and self.zeroed:
                continue
            if not units or not rises(units):
                raise InputError(
                    f"group {name!r}: expected one or more rising unit indices, got {list(units)}"
                )

    @property
    def collapsed(self) -> tuple[str, ...]:
        """Names of the groups that have no unit left."""
        return tuple(name for name, units in self.keep.items() if not units)

    def kept(self) -> dict[AxisKey, IntArray]:
        """The kept indices of every dimension that loses something, as `slice_model` takes them."""
        return kept_of(self.axes)

    def to_json(self) -> str:
        """The plan as JSON text; NaN is written as null."""
        content = {"format": FORMAT} | asdict(self)
        for name in ("zeroed", "sizes", "scales", "inexact", "trails", "unsure", "uncounted"):
            if not content[name]:
                del content[name]
        for cost in (content["before"], content["after"]):
            if cost["latency"] is None:
                del cost["latency"]
        return json_text(content, "group")

    @classmethod
    def from_json(cls, text: str) -> "PlanRecord":
        """Reads what `to_json` wrote.

        Raises:
            FileError: The text is damaged, has a field too many or too few, or was written in
                another format.
        """

        def problem(content: Mapping[str, Any]) -> str:
            found = content.get("format")
            return "" if found == FORMAT else (
                f"not a plan that this version reads: expected format {FORMAT}, got {found!r}. "
                f"{ADVICE}"
            )  # fmt: skip

        return read_json(cls, text, problem)

    def notes(self) -> list[str]:
        """Lines that say how to read the figures and use the small model."""
        note = "as wide as what was pruned; not read by forward"
        return [
            *(f"not changed: {name} = {value}, {note}" for name, value in self.unsure.items()),
            *few_rows_lines(self.options),
            *(f"not counted in MACs: {op}" for op in self.uncounted),
        ]

    def describe(self) -> list[str]:
        """Plain text: a line for each group, the totals, what was refused and why."""
        width = max((len(row.name) for row in self.summary), default=0)
        lines = [
            f"{row.name:<{width}}  {row.units_before:>5} -> {row.units_after:>5} units"
            + information(row.nats_before, row.nats_after)
            for row in self.summary
        ]
        lines += [
            f"{name}: {before:,.0f} -> {after:,.0f} ({share(before, after)} left)"
            for name, before, after in (
                ("units", float(self.before.units), float(self.after.units)),
                ("params", float(self.before.params), float(self.after.params)),
                ("MACs", self.before.macs, self.after.macs),
            )
        ]
        lines += latency(self.before.latency, self.after.latency, self.options.get("latency"))
        lines += [
            f"not exact: {name} is read through norms, which see fewer units; outputs move by "
            f"{difference:.2%}"
            for name, difference in self.inexact.items()
        ]
        lines += self.notes()
        lines += [f"collapsed: {name} has no unit left" for name in self.collapsed]
        return lines + refusals.in_lines(self.refused, "units")


# ---- in words


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
        runtime = how.get("runtime", "torch")
        line += ", measured" + (f" on {how['device']}" if "device" in how else "")
        line += f" in {runtime}" if runtime != "torch" else ""
        line += f" at batch size {how.get('batch')}"
        line += f", threads: {how['threads']}" if "threads" in how else ""
        line += f", ± {scatter[1]:.2g} ms" if scatter[1] is not None else ""
        if "allocation" in how:
            multiples = f", in multiples of {how['round_to']}" if how["round_to"] != 1 else ""
            line += f"; widths: {how['allocation']}{multiples}"
    return [line]


def share(before: float, after: float) -> str:
    """The share that is left, in percent."""
    return "100.0%" if before == after else f"{after / before:.1%}" if before else "n/a"


# ---- as JSON

_NATS = ("nats_before", "nats_after", "nats_alone", "nats_then")


def json_text(content: dict[str, Any], rows: str) -> str:
    """A plan's content as JSON text, with a digest; NaN is written as null.

    Args:
        content: The fields of the plan; its summary is changed in place.
        rows: What a row of the summary is about, for the error text.
    """
    for row in content["summary"]:
        for name in (name for name in _NATS if name in row):
            row[name] = None if np.isnan(row[name]) else row[name]
    try:
        return json.dumps(content | {"digest": _digest(content)}, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the plan holds what JSON cannot: {error}. Expected finite numbers, text, lists "
            f"and dicts of these; only the nats of a {rows} may be NaN (not measured)."
        ) from error


def read_json(kind: type[Record], text: str, problem: Callable[[Mapping[str, Any]], str]) -> Record:
    """Reads what ``to_json`` of a record wrote; `FileError` where that is not what the text is.

    Args:
        kind: The class of the record.
        text: The text.
        problem: What is wrong with the format of the content; empty where nothing is.
    """
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 - only reading needs it

    try:
        content = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise FileError(f"not a plan: expected JSON text, got {error}. {ADVICE}") from error
    found = content if isinstance(content, dict) else {}
    wrong = problem(found)
    if wrong:
        raise FileError(wrong)
    fields = {n: value for n, value in found.items() if n not in ("format", "kind", "digest")}
    try:
        record = TypeAdapter(kind).validate_json(json.dumps(_with_nan(fields)), strict=True)
    except ValidationError as error:
        raise FileError(f"damaged plan: {first_problem(error)}. {ADVICE}") from error
    # a field that the check above does not know is seen here, however deep it lies
    kept = {"digest": found.get("digest")}
    try:
        same = json.loads(record.to_json()) | kept == found | kept
    except InputError as error:  # an infinite number
        raise FileError(f"damaged plan: {error}") from error
    if not same:
        raise FileError(f"damaged plan: it holds fields that a plan does not have. {ADVICE}")
    _check_digest(found)
    return record


def _digest(content: Mapping[str, Any]) -> str:
    """sha256 of a plan's content, without its digest, in hexadecimal."""
    plain = {name: value for name, value in content.items() if name != "digest"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _check_digest(content: Mapping[str, Any]) -> None:
    """Raises `FileError` if the content has another digest than it says; older plans have none."""
    try:
        found = _digest(content)
    except ValueError:  # NaN or an infinite number, which no plan holds
        found = ""
    written = content.get("digest", found)
    if not found or written != found:
        raise FileError(
            f"damaged plan: it was changed after it was written: its digest should be "
            f"{str(written)[:12]!r} and is {found[:12]!r}. Make the plan again, or restore the "
            "file from a copy."
        )


def _with_nan(content: dict[str, Any]) -> dict[str, Any]:
    """Content read from JSON, with NaN again where null stands for nats that were not measured."""
    rows = content.get("summary")
    if not isinstance(rows, list):
        return content
    return content | {
        "summary": [
            row | {name: np.nan for name in _NATS if name in row and row[name] is None}
            if isinstance(row, dict)
            else row
            for row in rows
        ]
    }


def first_problem(error: "ValidationError") -> str:
    """Where in the data the first problem is, and what it is."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}"


def installed_version() -> str:
    """Version of the installed package."""
    return metadata.version("torch-mipp")
