"""Settings of a plan of single weights, in one frozen record."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any, Literal, get_args

from mipp import methods, selection, statistics, surgery, weights
from mipp.checks import check_fields, shown
from mipp.errors import InputError
from mipp.planning.keywords import check_ranges, read_memory, read_protect
from mipp.planning.model_outputs import Outputs, function_name, read_outputs
from mipp.planning.options import Options, Wanted, read_refit
from mipp.weights.regression import Pattern

Granularity = Literal["unit", "weight", "2:4", "4:8"]
"""What goes as a whole: units (filters, neurons, heads), or single weights; of these any, or so
many that of every four (eight) neighbouring inputs of an output two (four) stay."""

PATTERNS = {"2:4": Pattern(2, 4), "4:8": Pattern(4, 8)}

WeightAllocation = Literal["priced", "global", "uniform", "rows"]

WeightScorer = str | methods.Method | weights.Layerwise


@dataclass(frozen=True)
class WeightOptions:
    """Settings of `mipp.plan` with ``granularity="weight"``, ``"2:4"`` or ``"4:8"``.

    ``method``: ``"mipp"``, ``"wanda"``, ``"sparsegpt"``, or one of `mipp.methods` that scores
    single weights (``"l2"``, ``"snip"``, ``"grasp"``, ``"synflow"``, ...), by name or as a record.
    ``noise``: that outputs are seen through, ``"fisher"`` or a share of their variance, as in
    `mipp.Gaussian`. ``ridge``: added to every input's variance, as a share of it. ``allocation``:
    ``"priced"`` (fewest nats per weight, over all rows of all layers, for ``"mipp"``), ``"global"``
    (the highest scores of all layers, for methods that score), ``"uniform"`` (every layer keeps the
    same share) or ``"rows"`` (every output does); None is the method's own. ``loss``,
    ``outputs``, ``protect`` (names of layers), ``samples``, ``calibration``, ``memory``, ``seed``:
    as in `mipp.Options`.
    ``refit``: how the weights that stay take over, ``"own"`` for what the method's source does;
    only ``mode``, ``ridge``, ``norm`` and the rows of a `mipp.Refit` are used.
    """

    granularity: Granularity = "weight"
    method: WeightScorer = "mipp"
    noise: float | int | str = "fisher"
    ridge: float | int = 1e-4
    allocation: WeightAllocation | None = None
    loss: statistics.Loss | str = "auto"
    outputs: Outputs | None = None
    protect: tuple[str, ...] = ()
    samples: int | None = 5120
    refit: surgery.Refit | Literal["own"] | None = field(default_factory=surgery.Refit)
    calibration: statistics.CaptureConfig = field(default_factory=statistics.CaptureConfig)
    memory: int = 4 * 2**30
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, owner="")
        check_ranges(self)

    @property
    def pattern(self) -> Pattern | None:
        """That the weights of every row have to fit, if any."""
        return PATTERNS.get(self.granularity)

    @property
    def spread(self) -> WeightAllocation:
        """How the budget is spread, the method's own if nothing was asked for."""
        if self.allocation is not None:
            return self.allocation
        if isinstance(self.method, methods.Method):
            return "global" if self.method.ranking == "global" else "uniform"
        return "priced" if isinstance(self.method, str) else self.method.spread


def read_weight_options(granularity: str, given: Mapping[str, Any]) -> WeightOptions:
    """Options from the keywords of `mipp.plan`.

    Raises:
        InputError: an unknown granularity or keyword, or a value that does not fit.
    """
    if granularity not in get_args(Granularity):
        raise InputError(
            f"granularity={granularity!r}; expected one of "
            f"{', '.join(map(repr, get_args(Granularity)))}."
        )
    known = set(WeightOptions.__dataclass_fields__) - {"granularity"}
    unknown = sorted(set(given) - known)
    of_units = set(Options.__dataclass_fields__) | {"confidence"}
    if unknown and set(unknown) <= of_units:
        raise InputError(
            f"granularity={granularity!r} has no use for {', '.join(unknown)}: how units are "
            f"measured and removed. Its options are {', '.join(sorted(known))}."
        )
    if unknown:
        raise InputError(
            f"mipp.plan has no option {', '.join(unknown)}; with granularity={granularity!r} "
            f"expected some of {', '.join(sorted(known))}."
        )
    read = dict(given)
    read["method"] = read_weight_method(read.get("method", "mipp"))
    read["protect"] = read_protect(read.get("protect", ()))
    read_outputs(read.get("outputs"))
    if "memory" in read:
        read["memory"] = read_memory(read["memory"])
    if "refit" in read and read["refit"] != "own":
        read["refit"] = read_refit(read["refit"])
    if "refit" in read and read["refit"] == "own" and read["method"] == "mipp":
        read["refit"] = surgery.Refit()
    options = WeightOptions(granularity=granularity, **read)  # type: ignore[arg-type] # as checked
    _check(options)
    return options


def read_weight_method(method: "str | WeightScorer") -> WeightScorer:
    """A method of single weights, by its name or as a record.

    Raises:
        InputError: none such, with those there are.
    """
    if isinstance(method, weights.Layerwise) or method == "mipp":
        return method
    if isinstance(method, str) and method in weights.LAYERWISE:
        return weights.LAYERWISE[method]()
    if isinstance(method, str) and method not in methods.names():
        raise InputError(
            f"method={method!r} is not known; single weights are chosen by "
            f"{', '.join(weight_methods())}."
        )
    found = methods.get(method) if isinstance(method, str) else method
    if not isinstance(found, methods.Method):
        raise InputError(
            f"method={shown(method)}; expected one of {', '.join(weight_methods())}, or a record "
            "such as mipp.methods.SynFlow()."
        )
    if not isinstance(found, methods.ScoresWeights):
        raise InputError(
            f"method={found.name!r} chooses units, not single weights; expected one of "
            f"{', '.join(weight_methods())}."
        )
    return found


def weight_methods() -> list[str]:
    """Names that ``method=`` takes for single weights, ``"mipp"`` first."""
    scoring = [n for n in methods.names()[1:]
               if isinstance(methods.get(n), methods.ScoresWeights)]  # fmt: skip
    return ["mipp", *sorted(weights.LAYERWISE), *scoring]


def weight_budget(budget: "Wanted | None", options: WeightOptions) -> selection.Budget | None:
    """The budget as a record; None where a pattern decides.

    Raises:
        BudgetError: it cannot be read.
        InputError: there is none, or one that single weights cannot meet.
    """
    granularity = options.granularity
    if options.pattern is not None:
        if budget is not None:
            raise InputError(
                f"granularity={granularity!r} was given the budget {budget}; the pattern itself "
                "says how many weights stay. Leave the budget out, or use granularity='weight'."
            )
        return None
    if budget is None:
        raise InputError(
            "No budget was given. Say how many parameters may be other than zero, such as "
            "budget='params=10%', or what share of its information every layer keeps, such as "
            "budget='information=99%'."
        )
    if isinstance(budget, Mapping):
        raise InputError(
            f"budget={dict(budget)!r} was given for single weights; expected one budget for the "
            "whole model, such as 'params=10%'. What protect= names stays."
        )
    wanted = selection.parse_budget(budget)
    others = sorted(set(wanted.bounds) - {"params"})
    if others or wanted.widths is not None:
        raise InputError(
            f"granularity='weight' was given a budget of {', '.join(others) or 'widths'}: zeros "
            "among the weights of a layer save no multiply-accumulates, time or units in dense "
            "kernels. Give params= or information=, or use granularity='unit'."
        )
    if wanted.information is not None and options.method != "mipp":
        raise InputError(
            f"method={_name(options.method)!r} measures no information; give a budget of params."
        )
    return wanted


def _check(options: WeightOptions) -> None:
    spread, method = options.allocation, options.method
    fits: tuple[str, ...] = ("priced", "uniform", "rows")
    if isinstance(method, methods.Method):
        fits = ("global", "uniform", "rows")
    elif not isinstance(method, str):
        fits = ("uniform", "rows")
    if spread is not None and (spread not in fits or options.pattern is not None):
        expected = (
            f"one of {', '.join(map(repr, fits))} for method={_name(method)!r}"
            if options.pattern is None
            else f"none, since granularity={options.granularity!r} says it for every row"
        )
        raise InputError(f"allocation={spread!r}; expected {expected}.")
    noise = options.noise
    known = noise == "fisher" or (not isinstance(noise, str | bool) and 0 < noise < math.inf)
    if not known:
        raise InputError(
            f"noise={noise!r}; expected 'fisher' or a positive number such as 0.1, the share of "
            "each output's variance that counts as noise."
        )
    if not 0 < options.ridge < 1e6:
        raise InputError(f"ridge={options.ridge}; expected a number above 0, such as 1e-4.")
    check_refit(options.refit)


def check_refit(refit: "surgery.Refit | str | None") -> None:
    """Raise `InputError` for a `mipp.Refit` that single weights have no use for."""
    if isinstance(refit, surgery.Refit) and (refit.fits, refit.toward) != ("weights", "old"):
        raise InputError(
            f"Refit has fits={refit.fits!r} and toward={refit.toward!r}; single weights are fitted "
            "with fits='weights' and toward='old' only."
        )


def weights_to_dict(options: WeightOptions, budget: selection.Budget | None) -> dict[str, Any]:
    """The options as plain JSON values, for the record of a plan."""
    method = options.method
    named: dict[str, Any] = {"method_options": asdict(method)} if is_dataclass(method) else {}
    named |= {} if options.outputs is None else {"outputs": function_name(options.outputs)}
    refit = options.refit
    return named | {
        "granularity": options.granularity,
        "method": _name(method),
        "budget": None if budget is None else str(budget),
        "noise": options.noise,
        "ridge": options.ridge,
        "allocation": None if options.pattern is not None else options.spread,
        "protect": list(options.protect),
        "samples": options.samples,
        "refit": asdict(refit) if isinstance(refit, surgery.Refit) else refit,
        "seed": options.seed,
    }


def _name(method: WeightScorer) -> str:
    return method if isinstance(method, str) else method.name
