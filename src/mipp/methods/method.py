"""The contract of a pruning method: facts, options, and scores or a choice of units."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from mipp.checks import check_fields
from mipp.errors import InputError
from mipp.methods.shared.aggregate import Aggregation, aggregate
from mipp.options import Allocation, WeightAllocation
from mipp.problem import Problem, WeightProblem
from mipp.records import BoolArray, ChannelGraph, Curve, FloatArray, Keep, Trail
from mipp.retrain import Recipe
from mipp.statistics import Batch, Loss
from mipp.surgery import Refit

Needs = Literal["nothing", "data", "labels", "training"]
"""What a method needs beside the weights, each including the one before it."""

Ranking = Literal["global", "local"]
"""Whether scores of different groups can be compared. ``local`` ones rank within a group only."""

Scores = Mapping[int, FloatArray]
"""Group index -> score of each unit, shape ``(n_units,)``; the lowest goes first. Groups that are
absent keep all their units."""

Spend = Callable[[Scores, Keep, float], Keep]
"""``spend(scores, keep, share)``: of the units in ``keep`` those that stay when the budget is
approached by ``share`` of its way, in equal factors: at ``k / T`` a resource is down to
``rho ** (k / T)`` for the budget's ``rho``. What is not in ``keep`` never returns."""


@dataclass(frozen=True, eq=False)
class Question:
    """Input of a method in one round, which scores how much each unit that is left matters.

    Attributes:
        model: A copy of the caller's model that the method may change, in evaluation mode, in at
            least float32, with gradients enabled. Removed units are zeros in it, as
            `mipp.Plan.mask` makes them. A method that `reads_only` is given the model in its own
            precision and mode, and the caller's own one as long as nothing is removed.
        graph: Of the full-size model, whose names and shapes the copy has.
        batches: As the caller gave them; `shared.samples.drawn` draws some examples.
        loss: As in `mipp.Options`.
        seed: Of all random draws.
        keep: The units that are left; groups that are absent are whole.
        live: Parameter name -> mask, broadcastable to it, of the entries that are not fixed at
            zero; parameters that are absent are whole.
        round: Counts from 1 to ``rounds``.
        rounds: Number of rounds.
        memory: Bytes that measurements may take, as in `mipp.Options`.
    """

    model: nn.Module
    graph: ChannelGraph
    batches: Sequence[Batch]
    loss: Loss | str = "auto"
    seed: int = 0
    keep: Keep = field(default_factory=dict)
    live: Mapping[str, Tensor] = field(default_factory=dict)
    round: int = 1
    rounds: int = 1
    memory: int = 4 * 2**30

    def parameters(self) -> dict[str, nn.Parameter]:
        """The model's floating-point parameters by name, shared ones once."""
        return {n: p for n, p in self.model.named_parameters() if p.is_floating_point()}


@dataclass(frozen=True, eq=False)
class Training:
    """Data and recipe for methods that train.

    Attributes:
        batches: Of ``(x, y)``, as for `mipp.retrain.train`.
        recipe: Of one full training.
        progress: Called as ``progress(steps done, steps)``; `mipp.plan` sets it.

    Examples:
        >>> import torch
        >>> from mipp.retrain import Recipe
        >>> pairs = [(torch.randn(8, 4), torch.zeros(8, dtype=torch.long))]
        >>> Training(pairs, Recipe(epochs=2)).recipe.epochs
        2
    """

    batches: Iterable[Any]
    recipe: Recipe
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class TrainingCost:
    """The cost of all trainings of a method.

    Attributes:
        epochs: Passes over the data.
        steps: Of the optimizer.
        examples: Examples seen.
        macs: Multiply-accumulates of all forward passes, at the widths of each training. With the
            backward pass a step takes about three times as many.
    """

    epochs: int = 0
    steps: int = 0
    examples: int = 0
    macs: float = 0.0


@dataclass(frozen=True, eq=False)
class Trained:
    """The result of a method that trains.

    Attributes:
        model: The full-size model.
        keep: The units that stay.
        cost: Kept in the plan's record, under ``training``.
        notes: Numbers by name, kept there, too.
    """

    model: nn.Module
    keep: Keep
    cost: TrainingCost | None = None
    notes: Mapping[str, float | int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Choice:
    """The units that stay, and what is known of the choice.

    Attributes:
        keep: group name -> units that stay.
        nats: group name -> nats that all units transferred, and nats that were lost; NaN where none
            are measured.
        trails: what the choice was made from, for reports.
        notes: what the record of the plan holds beside the options.
        model: in place of the caller's, where the method has trained it.
    """

    keep: Mapping[str, tuple[int, ...]]
    nats: Mapping[str, tuple[float, float]]
    trails: tuple[Trail, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)
    model: nn.Module | None = None


@runtime_checkable
class Budgeted(Protocol):
    """A budget, to be spent on curves or scores, in one step or several."""

    @property
    def has_bounds(self) -> bool:
        """Whether anything but a stop rule bounds what stays."""
        ...

    def information(self, share: float) -> float | None:
        """The share of its information that every consumer keeps, ``share`` of the way."""
        ...

    def check(self) -> None:
        """Raises `BudgetError` where the budget cannot be met, whatever the scores."""
        ...

    def on_scores(self, scores: Scores, keep: Keep, share: float) -> Keep:
        """See `Spend`."""
        ...

    def on_curves(
        self,
        curves: Mapping[int, Curve],
        problem: Problem,
        share: float,
        gone: Mapping[str, int],
        *,
        final: bool,
    ) -> dict[int, BoolArray]:
        """The units of ``problem`` that stay, by group index.

        Args:
            curves: of each group of the problem.
            problem: the one planned for, or what earlier rounds have left of it.
            share: of the way to the budget, in equal factors.
            gone: group name -> units left, of groups that are no longer in the problem.
            final: whether it is the last round, for which a latency is measured.
        """
        ...


@dataclass(frozen=True)
class WeightTarget:
    """What a budget leaves of single weights.

    Attributes:
        most: so many weights; None for any number.
        information: share of its information that every layer keeps; None for no such bound.
    """

    most: float | None
    information: float | None


@dataclass(frozen=True, eq=False)
class WeightChoice:
    """The single weights that stay.

    Attributes:
        masks: parameter name -> mask in its shape, true where a weight stays.
        nats: parameter name -> nats before, and nats lost; NaN where none are measured.
        own: parameter name -> values that the method gives; None where it gives none.
        trails: what the choice was made from, for reports.
        loss: in words, whose Fisher information was used.
    """

    masks: Mapping[str, Tensor]
    nats: Mapping[str, tuple[float, float]]
    own: Mapping[str, Tensor] | None = None
    trails: tuple[Trail, ...] = ()
    loss: str = ""


NOT_MEASURED = (float("nan"), float("nan"))
"""Nats of a group or layer whose method measures none."""


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A way to choose units: a frozen record whose fields are its options.

    Attributes:
        name: In `mipp.plan`.
        summary: One line.
        source: The paper.
        needs: What it needs beside the weights.
        at_init: Whether it applies to an untrained net.
        ranking: Decides how the budget is spread unless ``allocation=`` says otherwise
            (``"global"``, or ``"uniform"`` for local scores).
        update: What the source does to the weights that stay; None for nothing. ``refit="own"`` of
            `mipp.plan` does that in place of the refit that all methods share.
        measures_information: Whether scores are nats, which stop rules and budgets of information
            need.
        slices_between_rounds: Whether each round measures the model that the round before has left,
            sliced and refitted. Otherwise removed units are zeros in a model of full size.
        reads_only: Whether it leaves the model as it is, at any precision, and needs no derivatives
            through it. Then no copy of the model is made for it.
        weight_allocations: The values of ``allocation=`` for single weights; the default is
            `weight_allocation`.
        rounds: Number of steps of scoring and removal, each on what the step before has left.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[Needs]
    at_init: ClassVar[bool]
    ranking: ClassVar[Ranking]
    update: ClassVar[Refit | None] = None
    measures_information: ClassVar[bool] = False
    slices_between_rounds: ClassVar[bool] = False
    reads_only: ClassVar[bool] = False
    weight_allocations: ClassVar[tuple[WeightAllocation, ...]] = ("global", "uniform", "rows")

    rounds: int = 1

    def __post_init__(self) -> None:
        """Refuse values of other types, and fewer than one round."""
        check_fields(self)
        self._at_least(1, "rounds")

    @property
    def allocation(self) -> Allocation:
        """How a budget is spread over the groups unless the caller says otherwise."""
        return "global" if self.ranking == "global" else "uniform"

    @property
    def weight_allocation(self) -> WeightAllocation:
        """How single weights are spread over the layers unless the caller says otherwise."""
        return "global" if self.ranking == "global" else "uniform"

    @property
    def chooses_weights(self) -> bool:
        """Whether it can choose single weights."""
        return callable(getattr(self, "weight_scores", None))

    @abstractmethod
    def choose(self, problem: Problem, budgets: Sequence[Budgeted]) -> Iterator[Choice]:
        """The units that stay, for one budget after the other."""

    def choose_weights(
        self, problem: WeightProblem, targets: Sequence[WeightTarget]
    ) -> Iterator[WeightChoice]:
        """The single weights that stay, for one target after the other."""
        from mipp.methods.shared.unstructured import ranked

        return (ranked(self, problem, target) for target in targets)

    def recorded(self) -> dict[str, Any]:
        """Its own options, as the record of a plan holds them."""
        return {"method_options": asdict(self)}

    def _at_least(self, least: float | int, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise InputError(
                    f"{type(self).__name__} has {name}={value}; expected at least {least}."
                )


@dataclass(frozen=True, kw_only=True)
class ScoringMethod(Method):
    """A method that ranks the units of the net as it is."""

    @abstractmethod
    def score(self, question: Question) -> Scores:
        """A finite score for every unit of a group; those of removed units are not read."""

    def choose(self, problem: Problem, budgets: Sequence[Budgeted]) -> Iterator[Choice]:
        """Scores and removes, in rounds; the scores of the first round serve all budgets."""
        from mipp.methods.shared.iterative import in_rounds

        return in_rounds(self, problem, budgets)


@dataclass(frozen=True, kw_only=True)
class WeightMethod(ScoringMethod):
    """A method that scores single weights; a unit's score aggregates those of its weights.

    Attributes:
        aggregation: See `shared.aggregate`.
        own: Whether the bias, norm parameters and depthwise filter of a unit count, too, not only
            its incoming weights.
    """

    aggregation: Aggregation = "l1"
    own: bool = False

    @abstractmethod
    def terms(self, question: Question) -> dict[str, Tensor]:
        """For every parameter by name what each entry adds, with its sign, in its shape."""

    def weight_scores(self, question: Question) -> dict[str, Tensor]:
        """Scores of single weights for unstructured pruning, by parameter; the lowest go first.

        Entries fixed at zero score like any other: ``question.live`` excludes them.
        """
        return {name: term.abs() for name, term in self.terms(question).items()}

    def score(self, question: Question) -> Scores:
        """The aggregated terms of each unit."""
        terms = self.terms(question)
        return aggregate(question.graph, question.keep, terms, self.aggregation, own=self.own)


@dataclass(frozen=True, kw_only=True)
class TrainingMethod(Method):
    """A method that trains the net while it chooses; the plan is then for the trained net."""

    @abstractmethod
    def run(self, question: Question, training: Training, spend: Spend) -> Trained:
        """Train ``question.model``, a copy of the caller's in its modes, and choose with ``spend``.

        Removed units need not be zeros in what is returned; they are sliced off.
        """

    def choose(self, problem: Problem, budgets: Sequence[Budgeted]) -> Iterator[Choice]:
        """Trains towards the one budget.

        Raises:
            InputError: for several budgets.
        """
        from mipp.methods.shared.iterative import trained_towards

        return trained_towards(self, problem, budgets)
