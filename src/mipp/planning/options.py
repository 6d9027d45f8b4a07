"""All settings of a plan, in one frozen record."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from numbers import Integral
from typing import Any, Literal, get_args

from mipp import information, methods, selection, statistics, surgery
from mipp.checks import check_fields, shown
from mipp.errors import FileError, InputError
from mipp.latency import Latency
from mipp.planning.keywords import check_ranges, read_memory, read_protect
from mipp.planning.model_outputs import Outputs, function_name, read_outputs

Target = Literal["activations", "outputs", "labels"]

Wanted = str | Mapping[str, str | selection.Budget] | selection.Budget
"""A budget, as users write it."""

Progress = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)`` while a plan is made or applied."""


@dataclass(frozen=True)
class Options:
    """Settings of `mipp.plan`, each also a keyword of it.

    ``method``: ``"mipp"``, a name from `mipp.methods.names` or a record such as
    `mipp.methods.SynFlow`. ``training``: `mipp.Training`, what methods that train are given.
    ``estimator``: how information is measured, a name of `mipp.information.names` or a record such
    as `mipp.Gaussian` (the keyword ``noise=`` changes that field of it). ``target``: what a group
    must tell: ``"activations"`` (what its consumers give), ``"outputs"`` of the model, or the
    ``"labels"`` that come with the batches. ``order``: ``"greedy"`` or ``"ordered"`` elimination.
    ``stop``: a rule that says which units may go at all, such as `mipp.Confidence` (the keyword
    ``confidence=0.95`` is short for it, and both take ``noise=0.1`` with an estimator given by
    name, unless told otherwise: through Fisher noise the layers of a trained net share so few nats
    that no unit is sure). ``next_layer``: with a stop rule or an information budget, whether a
    consumer's ``"whole"`` output counts or what the groups decided before have left of it
    (``"pruned"``, the paper's). ``allocation``: how the budget is spread over the groups:
    ``"priced"`` (fewest nats per cost saved), ``"global"`` (fewest nats), ``"tolerance"`` (the same
    share of nats lost) or ``"uniform"`` (the same share of units kept); None is the method's own,
    ``"priced"`` for ``"mipp"``. ``passes``: curves are worked out for all outputs of the consumers,
    then ``passes - 1`` times again for those that are kept. ``rounds``: prune in so many steps,
    measuring again on the pruned net; as a keyword it replaces the method's own. ``loss``: whose
    Fisher information is the noise: ``"categorical"``, ``"gaussian"``, ``"auto"`` (one of the two,
    by targets and outputs) or a function of (output, target) that gives the nats summed over the
    batch; for methods that need labels, the loss that the net is trained with (cross-entropy or
    mean squared error). ``protect``: group or module names that keep all units (``*`` and ``?``
    match). ``min_units``, ``round_to``: a group keeps so many units at least (0 lets whole layers
    go, which `Plan.collapsed` then tells), and in such multiples where it loses any. ``widths``: in
    place of a budget, how many units each group keeps, exactly: another plan, or group name ->
    number (groups that are absent keep all). ``samples``: calibration examples that are used at
    most, None for all. ``refit``: how the remaining weights take over, as a record or a mode's
    name; None or False leaves them, ``"own"`` is what the method's source does (see
    `mipp.methods.Method`). ``calibration``: how many rows are measured. ``memory``: bytes (or
    ``"4GiB"``) that the second moments may take; beyond it they are gathered in several passes, one
    consumer at a time at the least. ``latency``: how a budget of latency is measured.
    ``head_dims``: inside attention the units are not whole heads but features of heads, each taken
    from all heads at once. ``residual``: what layer norms and RMS norms go across (the residual
    stream of a transformer) can be pruned, too, which is not exact (`Plan.record.inexact`).
    ``outputs``: a function that picks from what the model returns what matters, such as
    ``lambda output: output[0]``; the loss is that of what it picks, and what is read by nothing
    else can be pruned. None: all of it. ``seed``: of everything that is drawn.
    """

    method: str | methods.Method = "mipp"
    training: methods.Training | None = None
    estimator: information.Estimator = field(default_factory=information.Gaussian)
    target: Target = "activations"
    order: selection.Order = "greedy"
    stop: selection.Stop | None = None
    next_layer: Literal["whole", "pruned"] = "whole"
    allocation: selection.Allocation | None = None
    passes: int = 1
    rounds: int = 1
    loss: statistics.Loss | str = "auto"
    protect: tuple[str, ...] = ()
    min_units: int = 1
    round_to: int = 1
    widths: Mapping[str, int] | None = None
    samples: int | None = 5120
    refit: surgery.Refit | None = field(default_factory=surgery.Refit)
    calibration: statistics.CaptureConfig = field(default_factory=statistics.CaptureConfig)
    memory: int = 4 * 2**30
    latency: Latency = field(default_factory=Latency)
    head_dims: bool = False
    residual: bool = False
    outputs: Outputs | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, owner="")
        check_ranges(self)

    @property
    def wider(self) -> dict[str, bool]:
        """What is asked for beyond the usual units, as `mipp.graph.trace` takes it."""
        return {"head_dims": self.head_dims, "residual": self.residual}

    @property
    def needs_rows(self) -> bool:
        """Whether moments are not enough: rows of observations have to be kept."""
        return (
            self.estimator.reads == "rows"
            or self.target != "activations"
            or isinstance(self.stop, selection.Confidence)
        )


_CHOICES = {
    "order": get_args(selection.Order),
    "allocation": get_args(selection.Allocation),
    "target": get_args(Target),
    "next_layer": ("whole", "pruned"),
}

_NONE = {"allocation": (None,)}
"""Where None means something."""

_DEFAULTS = Options()
_MEASURING = ("estimator", "target", "order", "passes")
"""Settings of mipp's own measurement, which other methods do not make."""


def read_options(**given: Any) -> Options:
    """Options from the keywords of `mipp.plan`, short forms included.

    Raises:
        InputError: an unknown keyword, or a value that does not fit; the text names it.
    """
    given["stop"] = read_stop(given.get("stop"), given.pop("confidence", None))
    estimator = _estimator(given, sure=isinstance(given["stop"], selection.Confidence))
    known = set(Options.__dataclass_fields__)
    unknown = sorted(set(given) - known)
    if unknown:
        raise InputError(
            f"mipp.plan has no option {', '.join(unknown)}; expected some of "
            f"{', '.join(sorted(known | {'noise', 'confidence'}))}."
        )
    if given.get("widths") is not None:
        given["widths"] = read_widths(given["widths"])
    if "memory" in given:
        given["memory"] = read_memory(given["memory"])
    given["protect"] = read_protect(given.get("protect", ()))
    for name, choices in _CHOICES.items():
        if name in given and given[name] not in (*choices, *_NONE.get(name, ())):
            raise InputError(
                f"{name}={given[name]!r}; expected one of {', '.join(map(repr, choices))}."
            )
    for name, least in (("passes", 1), ("rounds", 1), ("min_units", 0), ("round_to", 1)):
        count = given.get(name, 1)
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise InputError(f"{name}={count!r}; expected a whole number, at least {least}.")
    for name in ("head_dims", "residual"):
        if not isinstance(given.get(name, False), bool):
            raise InputError(f"{name}={given[name]!r}; expected True or False.")
    read_outputs(given.get("outputs"))
    given |= read_method(given.pop("method", "mipp"), given.get("rounds"), given.get("training"))
    if "refit" in given:
        given["refit"] = read_refit(given["refit"], given["method"])
    return Options(estimator=estimator, **given)


def read_method(
    method: "str | methods.Method", rounds: int | None, training: methods.Training | None
) -> dict[str, Any]:
    """A method's name or record as the options ``method`` and ``rounds``.

    Raises:
        InputError: an unknown name; a method that trains without ``training``, or the reverse.
    """
    found = methods.get(method) if isinstance(method, str) and method != "mipp" else method
    if found != "mipp" and not isinstance(found, methods.Method):
        raise InputError(
            f"method={shown(method)}; expected one of {', '.join(methods.names())}, or a record "
            "such as mipp.methods.SynFlow()."
        )
    trains = isinstance(found, methods.TrainingMethod)
    if trains != (training is not None):
        name = found if isinstance(found, str) else found.name
        raise InputError(
            f"method={name!r} was given {'without' if trains else 'with'} training=; methods that "
            "train need mipp.Training(batches, recipe), and the others take none."
        )
    if isinstance(found, str):
        return {"method": found}
    if rounds is not None:
        found = replace(found, rounds=rounds)
    return {"method": found, "rounds": found.rounds}


def _estimator(given: dict[str, Any], *, sure: bool) -> information.Estimator:
    """Takes ``estimator`` and ``noise`` out of the options; ``sure``: the rule is a confidence."""
    by_name = isinstance(given.get("estimator", "gaussian"), str)
    estimator = information.read(given.pop("estimator", "gaussian"))
    if by_name and sure:
        given.setdefault("noise", 0.1)
    if "noise" not in given:
        return estimator
    noise = given.pop("noise")
    if noise is None:
        raise InputError("noise=None; expected 'fisher' or a positive number such as 0.1.")
    if not is_dataclass(estimator):
        raise InputError(
            f"noise={noise!r} was given with {shown(estimator)}, whose noise is not a field that "
            "can be replaced. Leave noise= out, and set it in the estimator."
        )
    return replace(estimator, noise=noise)


def read_stop(stop: Any, confidence: Any) -> "selection.Stop | None":
    """The stop rule from either way of giving it."""
    if confidence is not None:
        if stop is not None:
            raise InputError("confidence= and stop= were both given; give one of them.")
        if isinstance(confidence, bool) or not isinstance(confidence, (int, float)):
            raise InputError(f"confidence={confidence!r}; expected a number such as 0.95.")
        return selection.Confidence(confidence)
    if stop is not None and (isinstance(stop, type) or not isinstance(stop, selection.Stop)):
        raise InputError(
            f"stop={stop!r}; expected a rule such as mipp.Confidence(0.95) or mipp.Share(0.99)."
        )
    return stop


def read_refit(
    refit: "surgery.Refit | str | bool | None", method: "str | methods.Method | None" = None
) -> "surgery.Refit | None":
    """True, False, a mode's name, a record, or "own" of the ``method`` as a `Refit` or None."""
    if refit == "own" and isinstance(method, methods.Method):
        return method.update
    if refit == "own" and method is not None:
        return surgery.Refit()
    if refit is None or refit is False or refit == "none":
        return None
    if refit is True:
        return surgery.Refit()
    if isinstance(refit, str):
        return surgery.Refit(mode=refit)
    if not isinstance(refit, surgery.Refit):
        raise InputError(
            f"refit={shown(refit)}; expected True, False, a mode such as 'sequential', or a record "
            "such as mipp.Refit(ridge=1e-3)."
        )
    return refit


def recorded_refit(options: Mapping[str, Any]) -> "surgery.Refit | None":
    """The refit that a plan read from text was made with.

    Raises:
        FileError: options that no `mipp.Refit` has.
    """
    settings = options.get("refit")
    try:
        if settings is None or isinstance(settings, dict):
            return None if settings is None else surgery.Refit(**settings)
        problem = f"expected the fields of mipp.Refit, got {shown(settings)}"
    except (TypeError, InputError) as error:
        problem = str(error)
    raise FileError(
        f"damaged plan: its refit options cannot be read: {problem}. Make the plan again, or "
        "restore the file from a copy."
    )


def read_widths(widths: Any) -> dict[str, int]:
    """Units by group name, from a plan or a mapping of numbers."""
    if isinstance(widths, Mapping):
        found = dict(widths)
    elif isinstance(getattr(widths, "keep", None), Mapping):
        found = {name: len(units) for name, units in widths.keep.items()}
    else:
        raise InputError(
            f"widths={widths!r}; expected a plan, or a mapping of group names to numbers of units."
        )
    for name, width in found.items():
        if isinstance(width, bool) or not isinstance(width, Integral):
            raise InputError(f"widths= gives group {name} {width!r}; expected a number of units.")
    return {name: int(width) for name, width in found.items()}


def to_dict(options: Options, budget: str) -> dict[str, Any]:
    """The options as plain JSON values, for the record of a plan."""
    refit, method = options.refit, options.method
    named: dict[str, Any] = {name: True for name, asked in options.wider.items() if asked}
    named |= {} if options.outputs is None else {"outputs": function_name(options.outputs)}
    named |= {} if isinstance(method, str) else {"method_options": asdict(method)}
    return named | {
        "method": method if isinstance(method, str) else method.name,
        "budget": budget,
        "estimator": options.estimator.name,
        "noise": options.estimator.noise,
        "estimator_settings": _settings(options.estimator),
        "target": options.target,
        "order": options.order,
        "stop": None if options.stop is None else repr(options.stop),
        "next_layer": options.next_layer,
        "allocation": options.allocation,
        "passes": options.passes,
        "rounds": options.rounds,
        "protect": list(options.protect),
        "min_units": options.min_units,
        "round_to": options.round_to,
        "samples": options.samples,
        "refit": None if refit is None else asdict(refit),
        "seed": options.seed,
    }


def _settings(estimator: information.Estimator) -> dict[str, Any]:
    """The fields of the estimator's record, tuples as lists; of another object what it prints."""
    if not is_dataclass(estimator):
        return {"repr": repr(estimator)}
    fields = asdict(estimator)
    return {n: list(v) if isinstance(v, tuple) else v for n, v in fields.items()}


def wanted_budget(budget: "Wanted | None", settings: Options) -> selection.Budget:
    """The budget as a record; empty where a stop rule decides alone.

    Raises:
        BudgetError: it cannot be read.
        InputError: neither is given, or options that need one.
    """
    if settings.widths is not None:
        if budget is not None or settings.stop is not None:
            raise InputError(
                "widths= was given with a budget or a stop rule; it says itself how many units "
                "stay. Give one of them."
            )
        wanted = selection.Budget({}, widths=settings.widths)
    elif budget is not None:
        wanted = selection.parse_budget(budget)
    elif settings.stop is not None:
        wanted = selection.Budget({})
    else:
        raise InputError(
            "Neither a budget nor a stop rule was given. Say how much may be left, such as "
            "budget='macs=50%', in what widths=, or when to stop, such as "
            "stop=mipp.Confidence(0.95)."
        )
    ends = settings.stop is not None or wanted.information is not None
    if ends and isinstance(settings.method, methods.Method):
        raise InputError(
            f"method={settings.method.name!r} measures no information, so that it has no use for "
            "stop= or a budget of information=. Give a budget of macs, params or units."
        )
    idle = [n for n in _MEASURING if getattr(settings, n) != getattr(_DEFAULTS, n)]
    if idle and isinstance(settings.method, methods.Method):
        raise InputError(
            f"method={settings.method.name!r} has no use for {', '.join(idle)}: how mipp measures "
            "and eliminates. Leave them out (noise= is a setting of the estimator); a method's own "
            "settings are fields of its record in mipp.methods."
        )
    if settings.next_layer == "pruned" and not ends:
        raise InputError(
            "next_layer='pruned' needs a rule that decides each group on its own: stop=, or a "
            "budget of information=. For a budget of cost use passes=2."
        )
    return wanted
