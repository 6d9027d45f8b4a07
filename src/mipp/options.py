"""All settings of a plan: each has a type, a default and one line of help.

The docstrings of the records of options, the help of the command line and the record of a plan are
made from these fields. Importing this module imports no torch; the types of the fields are imported
with the first record that is made.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_type_hints

if TYPE_CHECKING:
    from mipp import information, latency, methods, selection, statistics, surgery, weights

Target = Literal["activations", "outputs", "labels"]

Granularity = Literal["unit", "block", "weight", "2:4", "4:8"]
"""What is removed as a whole: units (filters, neurons, heads), blocks (residual blocks, layers of a
transformer) or single weights. Of single weights either any, or so many that two (four) of every
four (eight) neighbouring inputs of an output stay.
"""

WeightGranularity = Literal["weight", "2:4", "4:8"]

Order = Literal["greedy", "ordered"]
"""``greedy``: all remaining units are scored again at every step; the least informative one goes.
``ordered``: one pass, least informative on its own first (the paper's MI ordering)."""

Allocation = Literal["priced", "global", "tolerance", "uniform", "kinds"]
"""How a budget is spread over the groups.

* ``priced``: fewest nats per cost saved.
* ``global``: fewest nats, whatever the unit costs.
* ``tolerance``: the same share of information lost in every group.
* ``uniform``: the same share of units kept in every group.
* ``kinds``: the same number of units in all layers of one kind, those of one size whose names
  differ only in numbers. Between the kinds it is the method's own.
"""

WeightAllocation = Literal["priced", "global", "uniform", "rows"]

Outputs = Callable[[Any], Any]
"""Picks from what a model returns the tensors that have to stay as they are."""

Progress = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)`` while a plan is made or applied, or a net trained."""


def option(help: str, default: Any = MISSING, make: Callable[[], Any] | None = None) -> Any:  # noqa: A002
    """A field with its default, or what makes it, and one line of help."""
    if make is not None:
        return field(default_factory=make, metadata={"help": help})
    return field(default=default, metadata={"help": help})


def _record(module: str, name: str) -> Callable[[], Any]:
    """Makes the record of that name with its defaults; the module is imported only then."""

    def make() -> Any:
        return getattr(import_module(module), name)()

    return make


def import_types() -> None:
    """Gives the names in the annotations below their meaning."""
    global information, latency, methods, selection, statistics, surgery, weights  # noqa: PLW0603
    from mipp import information, latency, methods, selection, statistics, surgery, weights


@dataclass(frozen=True, kw_only=True)
class _Common:
    """Options that all plans share."""

    loss: "statistics.Loss | str" = option(
        "The loss whose Fisher information sets the noise: `categorical`, `gaussian`, `auto` (one "
        "of the two, by targets and outputs) or a function of (output, target) that returns the "
        "nats summed over the batch. For methods that need labels, the loss that trained the "
        "net.",
        "auto",
    )
    protect: tuple[str, ...] = option(
        "Names of groups, layers or modules that stay whole; `*` and `?` match.", ()
    )
    samples: int | None = option("Calibration examples that are used at most; None for all.", 5120)
    memory: int = option(
        "Bytes (or text such as `4GiB`) that second moments may take. If they need more, layers "
        "are measured one after the other, or in several passes. It bounds a refit, too: outputs "
        "of the original take at most a quarter of it. As many batches wait for each other at a "
        "layer as fit into it; the others are run from the start to each layer.",
        4 * 2**30,
    )
    outputs: Outputs | None = option(
        "A function that selects the outputs that matter from what the model returns, such as "
        "`lambda output: output[0]`. Units that only other outputs depend on can be pruned. None: "
        "all outputs.",
        None,
    )
    seed: int = option("Seed of all random numbers.", 0)

    def __post_init__(self) -> None:
        from mipp.checks import check_fields
        from mipp.errors import InputError

        import_types()
        check_fields(self, owner="")
        for name, least in (("samples", 1), ("memory", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and not least <= value < 2**63:
                raise InputError(f"{name}={value}; expected a whole number, at least {least}.")


@dataclass(frozen=True, kw_only=True)
class _Measured(_Common):
    """Options that plans of units and of single weights share."""

    calibration: "statistics.CaptureConfig" = option(
        "How many rows are measured.", make=_record("mipp.statistics", "CaptureConfig")
    )


@dataclass(frozen=True, kw_only=True)
class Options(_Measured):
    """Settings of `mipp.plan`, each also a keyword of it.

    Examples:
        >>> from mipp.options import Options
        >>> Options(round_to=8).min_units
        1
    """

    method: "methods.Method" = option(
        "How units are chosen: a name of `mipp.methods.names` or a record such as "
        "`mipp.methods.SynFlow`.",
        make=_record("mipp.methods", "Mipp"),
    )
    training: "methods.Training | None" = option("Data and recipe for methods that train.", None)
    estimator: "information.Estimator" = option(
        "How information is measured: a name of `mipp.information.names` or a record such as "
        "`mipp.Gaussian`. The keyword `noise` replaces its field of that name.",
        make=_record("mipp.information", "Gaussian"),
    )
    target: Target = option(
        "What a group must carry information about: `activations` (the outputs of its consumers), "
        "`outputs` (of the model) or the `labels` of the batches.",
        "activations",
    )
    order: Order = option(
        "Elimination: `greedy` (scored again after each removal) or `ordered` (one pass).", "greedy"
    )
    stop: "selection.Stop | None" = option(
        "A rule that says which units may be removed at all, such as `mipp.Confidence`, for which "
        "the keyword `confidence=0.95` is short. With it an estimator given by name has "
        "`noise=0.1` unless `noise` is given: through Fisher noise the layers of a trained net "
        "share so few nats that no unit passes the test.",
        None,
    )
    next_layer: Literal["whole", "pruned"] = option(
        "With a stop rule or an information budget: whether a consumer's `whole` output counts, or "
        "only what the groups decided before have kept of it (`pruned`, the paper's).",
        "whole",
    )
    allocation: Allocation | None = option(
        "How the budget is spread: `priced` (fewest nats per cost saved), `global` (fewest nats), "
        "`tolerance` (the same share of nats lost), `uniform` (the same share of units kept) or "
        "`kinds`. The last keeps the same number of units in all layers whose names "
        "differ only in numbers; between such kinds it is the method's own. None is the method's "
        "own.",
        None,
    )
    passes: int = option(
        "Curves are computed for all outputs of the consumers, then `passes - 1` times again for "
        "those that are kept.",
        1,
    )
    rounds: int = option(
        "Number of pruning steps. The pruned net is measured again before each further step. "
        "Replaces the method's own.",
        1,
    )
    min_units: int = option(
        "Fewest units that a group keeps; with 0 whole layers may go (listed in `Plan.collapsed`).",
        1,
    )
    round_to: int = option("A group that loses units keeps a multiple of this number.", 1)
    widths: Mapping[str, int] | None = option(
        "In place of a budget, how many units each group keeps, exactly: another plan, or group "
        "name -> number. Groups that are absent keep all.",
        None,
    )
    refit: "surgery.Refit | None" = option(
        "How the remaining weights are fitted: a record, or the name of a mode. None or False "
        "leaves them unchanged; `own` does what the method's source does.",
        make=_record("mipp.surgery", "Refit"),
    )
    latency: "latency.Latency" = option(
        "How a budget of latency is measured.", make=_record("mipp.latency", "Latency")
    )
    resume: str | Path | None = option(
        "Folder in which the state of the elimination is kept, a few seconds old at most. After an "
        "interruption the same call with the same options, model and batches continues there and "
        "gives the same plan. For learned estimators, whose eliminations take long.",
        None,
    )
    head_dims: bool = option(
        "Inside attention the units are not whole heads but features of heads, each taken from all "
        "heads at once.",
        False,
    )
    residual: bool = option(
        "Also prune the dimension that layer norms and RMS norms normalise (the residual stream of "
        "a transformer). This is not exact (`Plan.record.inexact`).",
        False,
    )

    @property
    def wider(self) -> dict[str, bool]:
        """What is requested beyond the usual units, as `mipp.graph.trace` takes it."""
        return {"head_dims": self.head_dims, "residual": self.residual}

    @property
    def needs_rows(self) -> bool:
        """Whether moments are not enough: rows of observations have to be kept."""
        from mipp.selection import Confidence

        return (
            self.estimator.reads == "rows"
            or self.target != "activations"
            or isinstance(self.stop, Confidence)
        )


@dataclass(frozen=True, kw_only=True)
class WeightOptions(_Measured):
    """Settings of `mipp.plan` with ``granularity="weight"``, ``"2:4"`` or ``"4:8"``.

    Examples:
        >>> from mipp.options import WeightOptions
        >>> WeightOptions(granularity="2:4").pattern
        Pattern(most=2, run=4)
    """

    granularity: WeightGranularity = option("What is removed: `weight`, `2:4` or `4:8`.", "weight")
    method: "methods.Method | methods.Layerwise" = option(
        "How weights are chosen: `mipp`, `wanda`, `sparsegpt` or a method that scores single "
        "weights (`l2`, `snip`, `grasp`, `synflow`, ...), by name or as a record.",
        make=_record("mipp.methods", "Mipp"),
    )
    noise: float | int | str = option(
        "Noise that outputs are seen through: `fisher`, or a share of their variance.", "fisher"
    )
    ridge: float | int = option("Added to every input's variance, as a share of it.", 1e-4)
    allocation: WeightAllocation | None = option(
        "How the budget is spread: `priced` (fewest nats per weight, over all rows of all layers), "
        "`global` (the highest scores of all layers), `uniform` (every layer keeps the same share) "
        "or `rows` (every output does). None is the method's own.",
        None,
    )
    refit: "surgery.Refit | Literal['own'] | None" = option(
        "How the remaining weights are fitted; `own` does what the method's source does. Only "
        "`mode`, `ridge`, `norm` and the rows of a `mipp.Refit` are used.",
        make=_record("mipp.surgery", "Refit"),
    )

    @property
    def pattern(self) -> "weights.regression.Pattern | None":
        """The pattern that the weights of every row have to fit, if any."""
        from mipp.weights.regression import Pattern

        patterns = {"2:4": Pattern(2, 4), "4:8": Pattern(4, 8)}
        return patterns.get(self.granularity)

    @property
    def spread(self) -> WeightAllocation:
        """How the budget is spread, the method's own if none was requested."""
        return self.allocation or self.method.weight_allocation


@dataclass(frozen=True, kw_only=True)
class BlockOptions(_Common):
    """Settings of `mipp.plan` with ``granularity="block"``.

    Examples:
        >>> from mipp.options import BlockOptions
        >>> BlockOptions(blocks=("encoder.layer.*",)).order
        'greedy'
    """

    granularity: Literal["block"] = option("What is removed: `block`.", "block")
    blocks: tuple[str, ...] = option(
        "Names of the modules that are blocks, such as `encoder.layer.*`; `*` and `?` match. None: "
        "they are found, as the outermost modules in lists that add their input to their output, "
        "and others there that give the shape that they take.",
        (),
    )
    order: Order = option(
        "Removal: `greedy` (all blocks that are left are tried again after each) or `ordered` "
        "(each is tried once, alone).",
        "greedy",
    )
    score_samples: int = option(
        "Examples, of those in `samples`, on which the model runs without a block to see what is "
        "lost.",
        512,
    )
    refit: "surgery.Refit | None" = option(
        "How the layers behind a removed block are fitted to what they get now: a record, or the "
        "name of a mode. None or False leaves them unchanged.",
        make=_record("mipp.surgery", "Refit"),
    )
    latency: "latency.Latency" = option(
        "How a budget of latency is measured.", make=_record("mipp.latency", "Latency")
    )


def types_of(record: type) -> dict[str, Any]:
    """The type of each field."""
    import_types()
    return get_type_hints(record)


def help_of(record: type, name: str) -> str:
    """The line of help of a field."""
    found: Field[Any] = record.__dataclass_fields__[name]  # type: ignore[attr-defined]
    return str(found.metadata["help"])


def _document(record: type) -> None:
    """Adds the fields to the docstring, in alphabetical order."""
    lines = [
        f"        {one.name}: {one.metadata['help'].replace('`', '``')}"
        for one in sorted(fields(record), key=lambda one: one.name)
    ]
    record.__doc__ = f"{record.__doc__}\n\n    Attributes:\n" + "\n".join(lines) + "\n"


_document(Options)
_document(WeightOptions)
_document(BlockOptions)


class _CommonKeywords(TypedDict, total=False):
    loss: "statistics.Loss | str"
    protect: str | Iterable[str] | None
    samples: int | None
    memory: int | str
    outputs: Outputs | None
    seed: int


class UnitKeywords(_CommonKeywords, total=False):
    """The keywords of `mipp.plan` for units, as users may write them."""

    calibration: "statistics.CaptureConfig"
    method: "str | methods.Method"
    training: "methods.Training | None"
    estimator: "str | information.Estimator"
    noise: float | int | str
    target: Target
    order: Order
    stop: "selection.Stop | None"
    confidence: float | int | None
    next_layer: Literal["whole", "pruned"]
    allocation: Allocation | None
    passes: int
    rounds: int
    min_units: int
    round_to: int
    widths: "Mapping[str, int] | Any | None"
    refit: "surgery.Refit | str | bool | None"
    latency: "latency.Latency"
    resume: str | Path | None
    head_dims: bool
    residual: bool


class WeightKeywords(_CommonKeywords, total=False):
    """The keywords of `mipp.plan` for single weights, as users may write them."""

    calibration: "statistics.CaptureConfig"
    method: "str | methods.Method | methods.Layerwise"
    noise: float | int | str
    ridge: float | int
    allocation: WeightAllocation | None
    refit: "surgery.Refit | str | bool | None"


class BlockKeywords(_CommonKeywords, total=False):
    """The keywords of `mipp.plan` for blocks, as users may write them."""

    blocks: str | Iterable[str] | None
    order: Order
    score_samples: int
    refit: "surgery.Refit | str | bool | None"
    latency: "latency.Latency"
