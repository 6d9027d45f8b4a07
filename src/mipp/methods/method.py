"""What every competing method is: facts, options, and an answer to one question."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from torch import Tensor, nn

from mipp.checks import check_fields
from mipp.errors import InputError
from mipp.methods.shared.aggregate import Aggregation, aggregate
from mipp.records import ChannelGraph, FloatArray, Keep
from mipp.retrain import Recipe
from mipp.statistics import Batch, Loss
from mipp.surgery import Refit

Needs = Literal["nothing", "data", "labels", "training"]
"""What a method looks at beside the weights, each including the one before it."""

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
    """What a method is asked, in one round: how much each unit that is left matters.

    ``model``: a copy of the caller's, the method's own to change, in evaluation mode, in float32 at
    least, with gradients enabled; removed units are zeros in it, as `mipp.Plan.mask` makes them.
    ``graph``: of the full-size model, whose names and shapes the copy has. ``batches``: as the
    caller gave them; use `shared.samples.drawn` to take some. ``keep``: the units that are
    left (groups that are absent are whole). ``live``: parameter name -> boolean mask, that can be
    broadcast to it, of the entries that are not held at zero; parameters that are absent are whole.
    ``round`` counts from 1 to ``rounds``.
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

    def parameters(self) -> dict[str, nn.Parameter]:
        """The model's floating-point parameters by name, shared ones once."""
        return {n: p for n, p in self.model.named_parameters() if p.is_floating_point()}


@dataclass(frozen=True, eq=False)
class Training:
    """What methods that train are given.

    ``batches``: of ``(x, y)``, as `mipp.retrain.train` takes them; ``recipe``: of one full
    training. ``progress``: called as ``progress(steps done, steps)``; `mipp.plan` sets it.
    """

    batches: Iterable[Any]
    recipe: Recipe
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class TrainingCost:
    """What a method's own training took.

    ``epochs``, ``steps`` of the optimizer and ``examples`` seen, over all its trainings; ``macs``:
    multiply-accumulates of all forward passes, at the widths that each was trained in (with the
    backward pass a step takes about three times as many).
    """

    epochs: int = 0
    steps: int = 0
    examples: int = 0
    macs: float = 0.0


@dataclass(frozen=True, eq=False)
class Trained:
    """What a method that trains gives back: a full-size ``model`` and the units that stay in it.

    ``cost`` and ``notes`` (numbers by name) are kept in the plan's record, under ``training``.
    """

    model: nn.Module
    keep: Keep
    cost: TrainingCost | None = None
    notes: Mapping[str, float | int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A way to choose units. A frozen record: its fields are its options.

    The facts are class attributes: ``name`` in `mipp.plan`; ``summary`` in one line; ``source``;
    ``needs``; ``at_init``: whether it can be asked of an untrained net; ``ranking``, which decides
    how the budget is spread unless ``allocation=`` says otherwise (``"global"``, or ``"uniform"``
    for local scores). ``update``: what the source does to the weights that stay, None for nothing;
    ``refit="own"`` of `mipp.plan` does that in place of the refit that all methods share.

    ``rounds``: score and remove in so many steps, each on what the one before has left.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[Needs]
    at_init: ClassVar[bool]
    ranking: ClassVar[Ranking]
    update: ClassVar[Refit | None] = None

    rounds: int = 1

    def __post_init__(self) -> None:
        """Refuse words that are no choice, and fewer than one round."""
        check_fields(self)
        hints = get_type_hints(type(self))
        for option in fields(self):
            hint, value = hints[option.name], getattr(self, option.name)
            if get_origin(hint) is Literal and value not in get_args(hint):
                raise InputError(
                    f"{type(self).__name__} has {option.name}={value!r}; expected one of "
                    f"{', '.join(map(repr, get_args(hint)))}."
                )
        self._at_least(1, "rounds")

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


@dataclass(frozen=True, kw_only=True)
class WeightMethod(ScoringMethod):
    """A method that scores single weights; a unit's score is made of those that make it.

    ``aggregation``: see `shared.aggregate`. ``own``: also count the bias, norm parameters and
    depthwise filter of a unit, not only its incoming weights.
    """

    aggregation: Aggregation = "l1"
    own: bool = False

    @abstractmethod
    def terms(self, question: Question) -> dict[str, Tensor]:
        """For every parameter by name what each entry adds, with its sign, in its shape."""

    def weight_scores(self, question: Question) -> dict[str, Tensor]:
        """Scores of single weights for unstructured pruning, by parameter; the lowest goes first.

        Entries that are held at zero score like any other: leave them out by ``question.live``.
        """
        return {name: term.abs() for name, term in self.terms(question).items()}

    def score(self, question: Question) -> Scores:
        """The terms of each unit, put together."""
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
