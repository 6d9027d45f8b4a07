"""What a plan says, as plain data: which units stay, in the coordinates of the model it is for."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from itertools import pairwise
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from mipp.errors import FileError, InputError
from mipp.records import (
    AxisKey,
    BoolArray,
    ChannelGraph,
    Cost,
    GroupSummary,
    IntArray,
    Keep,
    Refusal,
    Trail,
)
from mipp.surgery.plan_text import few_rows_lines, information, latency, share

FORMAT = 1
"""Version of the JSON form of a plan."""


@dataclass(frozen=True)
class AxisKeep:
    """Which indices stay along one dimension of one parameter or buffer.

    ``size``: length of the dimension before; ``kept``: the indices that stay, rising.
    """

    tensor: str
    dim: int
    size: int
    kept: tuple[int, ...]

    def __post_init__(self) -> None:
        where = f"dimension {self.dim} of {self.tensor!r}"
        if self.dim < 0:
            raise InputError(f"{where}: expected a dimension counted from 0")
        if not self.kept or not rises(self.kept) or self.kept[-1] >= self.size:
            raise InputError(
                f"{where}: expected one or more rising indices below {self.size}, "
                f"got {list(self.kept)}"
            )

    @property
    def key(self) -> AxisKey:
        """The dimension, as the other records name it."""
        return AxisKey(self.tensor, self.dim)

    @property
    def indices(self) -> IntArray:
        """The kept indices, shape ``(n_kept,)``."""
        return np.asarray(self.kept, dtype=np.int64)


@dataclass(frozen=True)
class AttributeKeep:
    """An integer attribute of a module that counts what is removed, before and after.

    ``module``: path of the module; ``name``: of the attribute, such as ``num_heads``.
    """

    module: str
    name: str
    before: int
    after: int

    def __post_init__(self) -> None:
        if not 0 < self.after <= self.before:
            raise InputError(
                f"attribute {self.name!r} of {self.module!r}: expected a number from 1 to "
                f"{self.before}, got {self.after}"
            )


@dataclass(frozen=True)
class ScaleKeep:
    """Rows of a weight or a bias that are multiplied by a ``factor``.

    ``indices``: those among the ``size`` along ``dim``, before anything is removed, rising.
    """

    tensor: str
    dim: int
    size: int
    indices: tuple[int, ...]
    factor: float

    def __post_init__(self) -> None:
        fits = self.indices and rises(self.indices) and self.indices[-1] < self.size
        if not fits or not 0 < self.factor <= 1:
            raise InputError(
                f"scale of {self.tensor!r}: expected rising indices below {self.size} and a factor "
                f"from 0 to 1, got {list(self.indices)} and {self.factor}"
            )


@dataclass(frozen=True)
class PlanRecord:
    """All that a plan says; with it, and no graph, the model can be sliced again.

    ``keep``: group name -> indices of the units that stay. ``axes``: the same for every dimension
    that loses something. ``before`` and ``after``: cost of the whole model. ``options``: how the
    plan was made (method, budget, seed, ...), as JSON can hold it. ``fingerprint``: of the model it
    is for (see `fingerprint`). All indices count in that model, before anything is removed.

    ``keep`` may be empty for a group (a collapse). No layer runs without any channel, so one unit
    then stays in ``axes`` for its shape alone, and ``zeroed`` has the indices, among those that
    ``axes`` keeps, whose weights are set to zero. ``after`` does not count it. ``sizes``:
    attributes of modules, such as a number of heads, that change with the widths. ``scales``: rows
    of weights that are multiplied by a number, to keep the scale of a product that sums over fewer.
    ``inexact``: groups that lose units which norms go across -> by how much outputs on calibration
    data differ, relative to their size, from those of the model whose norms see all units.

    ``trails``: what the choice was made from, for reports; nothing is computed with it.
    ``unsure``: attributes that stay, since it is not known whether they count what changes.
    ``uncounted``: ops that ``before`` and ``after`` leave out, since nobody knows their cost.
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
        for row in content["summary"]:
            for name in ("nats_before", "nats_after"):
                row[name] = None if np.isnan(row[name]) else row[name]
        try:
            return json.dumps(content | {"digest": digest_of(content)}, indent=1, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"the plan holds what JSON cannot: {error}. Expected finite numbers, text, lists "
                f"and dicts of these; only the nats of a group may be NaN (not measured)."
            ) from error

    @classmethod
    def from_json(cls, text: str) -> "PlanRecord":
        """Read what `to_json` wrote.

        Raises `FileError` if the text is damaged, has a field too many or too few, or was
        written in another format.
        """
        advice = "Make the plan again, or restore the file from a copy."
        try:
            content = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise FileError(f"not a plan: expected JSON text, got {error}. {advice}") from error
        found = content.get("format") if isinstance(content, dict) else None
        if found != FORMAT:
            raise FileError(
                f"not a plan that this version reads: expected format {FORMAT}, got {found!r}. "
                f"{advice}"
            )
        fields = {n: value for n, value in content.items() if n not in ("format", "digest")}
        try:
            record: PlanRecord = TypeAdapter(cls).validate_json(
                json.dumps(_with_nan(fields)), strict=True
            )
        except ValidationError as error:
            raise FileError(f"damaged plan: {first_problem(error)}. {advice}") from error
        # a field that the check above does not know is seen here, however deep it lies
        kept = {"digest": content.get("digest")}
        if json.loads(record.to_json()) | kept != content | kept:
            raise FileError(f"damaged plan: it holds fields that a plan does not have. {advice}")
        check_digest(content)
        return record

    def notes(self) -> list[str]:
        """Lines of what has to be known to judge the figures, or to use the small model."""
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
        return lines + [f"refused: {r.name} ({r.n_units} units): {r.reason}" for r in self.refused]


def digest_of(content: Mapping[str, Any]) -> str:
    """sha256 of a plan's content, without its digest, in hexadecimal."""
    plain = {name: value for name, value in content.items() if name != "digest"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, allow_nan=False).encode()).hexdigest()


def check_digest(content: Mapping[str, Any]) -> None:
    """Raise `FileError` if the content has another digest than it says; older plans have none."""
    try:
        found = digest_of(content)
    except ValueError:  # NaN or an infinite number, which no plan holds
        found = ""
    written = content.get("digest", found)
    if not found or written != found:
        raise FileError(
            f"damaged plan: it was changed after it was written: its digest should be "
            f"{str(written)[:12]!r} and is {found[:12]!r}. Make the plan again, or restore the "
            "file from a copy."
        )


def with_placeholders(graph: ChannelGraph, keep: Keep) -> dict[int, BoolArray]:
    """The masks, and one unit more wherever a dimension of a tensor would have no index left."""
    shaped = {index: units.copy() for index, units in keep.items()}
    for axis in graph.axes.values():
        if not axis.kept(shaped).any():
            shaped[int(axis.group[0])][axis.unit[0]] = True
    return shaped


def kept_indices(graph: ChannelGraph, keep: Keep) -> dict[AxisKey, IntArray]:
    """Indices that stay along every dimension that loses something, each of shape ``(n_kept,)``.

    Raises `InputError` if a mask is not of its group's shape, or leaves a group without units or a
    dimension of a tensor without any index.
    """
    check_keep(graph, keep)
    kept = {}
    for key, axis in graph.axes.items():
        mask = axis.kept(keep)
        if not mask.any():
            raise InputError(
                f"keep leaves nothing of dimension {key.dim} of {key.tensor!r}, which has "
                f"{axis.size} indices: a layer needs at least one. Keep one of the units that it "
                f"makes or reads."
            )
        if not mask.all():
            kept[key] = np.flatnonzero(mask)
    return kept


def check_keep(graph: ChannelGraph, keep: Keep, *, may_empty: bool = False) -> None:
    """Raise `InputError` unless every mask is boolean, of its group's shape, and leaves a unit.

    ``may_empty``: a mask may leave none.
    """
    n_units = {group.index: group.n_units for group in graph.groups}
    for index, units in keep.items():
        if index not in n_units:
            raise InputError(f"keep names group {index}; the graph has groups {sorted(n_units)}")
        if units.dtype != np.bool_ or units.shape != (n_units[index],):
            raise InputError(
                f"keep of group {index}: expected a boolean mask of shape ({n_units[index]},), "
                f"got {units.dtype} of shape {units.shape}"
            )
        if not may_empty and not units.any():
            raise InputError(
                f"keep of group {index} removes all {n_units[index]} units: keep at least one"
            )


def axis_keeps(graph: ChannelGraph, kept: Mapping[AxisKey, IntArray]) -> tuple[AxisKeep, ...]:
    """The kept indices of `kept_indices`, with full sizes, for a `PlanRecord`."""
    return tuple(
        AxisKeep(key.tensor, key.dim, graph.axes[key].size, tuple(indices.tolist()))
        for key, indices in sorted(kept.items())
    )


def attribute_keeps(
    graph: ChannelGraph, kept: Mapping[AxisKey, IntArray]
) -> tuple[AttributeKeep, ...]:
    """The attributes that change when only the indices in ``kept`` stay."""
    return tuple(
        AttributeKeep(
            size.module,
            size.name,
            size.size,
            size.size * len(kept[size.axis]) // graph.axes[size.axis].size,
        )
        for size in graph.sizes
        if size.axis in kept
    )


def scale_keeps(graph: ChannelGraph, kept: Mapping[AxisKey, IntArray]) -> tuple[ScaleKeep, ...]:
    """What keeps the scale of products that sum over less when only the indices in ``kept`` stay.

    Scores of ``d`` features are scaled by ``1 / sqrt(d)`` at run time; of ``n`` that are left the
    code makes ``1 / sqrt(n)``. One side times ``sqrt(n / d)`` gives ``1 / sqrt(d)`` again.
    """
    made: list[ScaleKeep] = []
    for product in graph.products:
        own = kept.get(product.left[0])
        left = len(product.rows) if own is None else int(np.isin(product.rows, own).sum())
        factor = (left / len(product.rows)) ** product.power
        if factor < 1:
            rows = tuple(product.rows.tolist())
            made += [
                ScaleKeep(key.tensor, key.dim, graph.axes[key].size, rows, factor)
                for key in product.left
            ]
    return tuple(made)


def kept_of(axes: tuple[AxisKeep, ...]) -> dict[AxisKey, IntArray]:
    """The kept indices of every dimension, each of shape ``(n_kept,)``."""
    return {axis.key: axis.indices for axis in axes}


def fingerprint(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Hash of a model's structure: the names and shapes of its state, in hexadecimal.

    The number type is left out, so that a model cast to bfloat16 is still the same model.
    """
    lines = (f"{name} {list(shape)}\n" for name, shape in sorted(shapes.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def installed_version() -> str:
    """Version of the installed package."""
    return metadata.version("torch-mipp")


def rises(indices: tuple[int, ...]) -> bool:
    """Whether indices start at 0 or above and each is larger than the one before."""
    return indices[0] >= 0 and all(a < b for a, b in pairwise(indices))


def _with_nan(content: dict[str, Any]) -> dict[str, Any]:
    """Content read from JSON, with NaN again where null stands for nats that were not measured."""
    rows = content.get("summary")
    if not isinstance(rows, list):
        return content
    nats = ("nats_before", "nats_after")
    return content | {
        "summary": [
            row | {name: np.nan for name in nats if name in row and row[name] is None}
            if isinstance(row, dict)
            else row
            for row in rows
        ]
    }


def first_problem(error: ValidationError) -> str:
    """Where in the data the first problem is, and what it is."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}"
