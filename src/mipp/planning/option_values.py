"""From the keywords that users write to the options of a plan."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass, replace
from numbers import Integral
from typing import Any, Literal, get_args

from torch import nn

from mipp import information, methods, selection, surgery
from mipp.checks import shown
from mipp.errors import FileError, InputError
from mipp.options import Allocation, Options, WeightOptions
from mipp.planning.model_outputs import read_outputs


def unit_options(**given: Any) -> Options:
    """Options of units from the keywords of `mipp.plan`.

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
    read_common(given)
    allocation, known_ones = given.get("allocation"), get_args(Allocation)
    if allocation is not None and allocation not in known_ones:
        raise InputError(
            f"allocation={allocation!r}; expected one of {', '.join(map(repr, known_ones))}."
        )
    for name, least in (("passes", 1), ("rounds", 1), ("min_units", 0), ("round_to", 1)):
        count = given.get(name, 1)
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise InputError(f"{name}={count!r}; expected a whole number, at least {least}.")
    for name in ("head_dims", "residual"):
        if not isinstance(given.get(name, False), bool):
            raise InputError(f"{name}={given[name]!r}; expected True or False.")
    given |= read_method(given.pop("method", "mipp"), given.get("rounds"), given.get("training"))
    if given.get("resume") is not None and given["method"].name != "mipp":
        raise InputError(
            f"resume={shown(given['resume'])} was given with method={given['method'].name!r}; only "
            "the elimination of method='mipp' can be continued. Leave resume= out."
        )
    if "refit" in given:
        given["refit"] = read_refit(given["refit"], given["method"])
    return Options(estimator=estimator, **given)


def read_common(given: dict[str, Any]) -> None:
    """Reads what units and single weights have in common, in place."""
    if "memory" in given:
        given["memory"] = read_memory(given["memory"])
    given["protect"] = read_protect(given.get("protect", ()))
    read_outputs(given.get("outputs"))


def read_method(
    method: "str | methods.Method", rounds: int | None, training: methods.Training | None
) -> dict[str, Any]:
    """A method's name or record as the options ``method`` and ``rounds``.

    Raises:
        InputError: an unknown name; a method that trains without ``training``, or the reverse.
    """
    found = methods.get(method) if isinstance(method, str) else method
    if not isinstance(found, methods.Method):
        raise InputError(
            f"method={shown(method)}; expected one of {', '.join(methods.names())}, or a record "
            "such as mipp.methods.SynFlow()."
        )
    trains = isinstance(found, methods.TrainingMethod)
    if trains != (training is not None):
        raise InputError(
            f"method={found.name!r} was given {'without' if trains else 'with'} training=; methods "
            "that train need mipp.Training(batches, recipe), and the others take none."
        )
    if rounds is not None:
        found = replace(found, rounds=rounds)
    return {"method": found, "rounds": found.rounds}


def _estimator(given: dict[str, Any], *, sure: bool) -> information.Estimator:
    """Takes estimator and noise out of the options; ``sure`` if the stop rule is a confidence."""
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
    refit: "surgery.Refit | str | bool | None", method: "methods.Method | None" = None
) -> "surgery.Refit | None":
    """True, False, a mode's name, a record, or "own" of the ``method`` as a `Refit` or None."""
    if refit == "own" and method is not None:
        return method.update
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


def recorded_weight_refit(
    options: Mapping[str, Any],
) -> "surgery.Refit | Literal['own'] | None":
    """The same for a plan of single weights, which may have those of its method."""
    return "own" if options.get("refit") == "own" else recorded_refit(options)


def read_widths(widths: Any) -> dict[str, int]:
    """Units by group name, from a plan or a mapping of numbers."""
    if isinstance(widths, Mapping):
        found = dict(widths)
    elif isinstance(getattr(widths, "keep", None), Mapping):
        found = {name: len(units) for name, units in widths.keep.items()}
    else:
        raise InputError(
            f"widths={shown(widths)}; expected a plan of units, or a mapping of group names to "
            "numbers of units."
        )
    for name, width in found.items():
        if isinstance(width, bool) or not isinstance(width, Integral):
            raise InputError(f"widths= gives group {name} {width!r}; expected a number of units.")
    return {name: int(width) for name, width in found.items()}


def read_protect(protect: Any, option: str = "protect") -> tuple[str, ...]:
    """Names and patterns of what keeps all units, from one of them or several.

    Args:
        protect: as users write it.
        option: its name, for the error text.

    Raises:
        InputError: anything that is not text; of a module it has the name to look for.
    """
    if protect is None:
        return ()
    names = (protect,) if isinstance(protect, str) else protect
    if not isinstance(names, Iterable) or isinstance(names, nn.Module | type | bytes):
        names = (names,)
    found = []
    for name in names:
        if not isinstance(name, str):
            what = type(name).__name__
            raise InputError(
                f"{option}= holds {shown(name)}, of type {what}; expected names of groups or "
                f"modules, such as {option}=['layer1.conv2', '*attention*']. The name of a module "
                "is the one that model.named_modules() gives it."
            )
        found.append(name)
    return tuple(found)


def read_memory(memory: int | str) -> int:
    """Bytes from a number or from text such as ``"4GiB"``."""
    if isinstance(memory, int) and not isinstance(memory, bool):
        return memory
    if isinstance(memory, str) and memory.isdecimal():
        return int(memory)
    for suffix, factor in (("GiB", 2**30), ("MiB", 2**20), ("GB", 10**9), ("MB", 10**6)):
        if isinstance(memory, str) and memory.lower().endswith(suffix.lower()):
            try:
                return int(float(memory[: -len(suffix)]) * factor)
            except (ValueError, OverflowError):
                break
    raise InputError(f"memory={shown(memory)}; expected bytes or text such as '4GiB' or '500MB'.")


def weight_options(granularity: str, given: Mapping[str, Any]) -> WeightOptions:
    """Options of single weights from the keywords of `mipp.plan`.

    Raises:
        InputError: an unknown keyword, or a value that does not fit.
    """
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
    read_common(read)
    if "refit" in read and read["refit"] != "own":
        read["refit"] = read_refit(read["refit"])
    if "refit" in read and read["refit"] == "own" and read["method"].measures_information:
        read["refit"] = surgery.Refit()
    options = WeightOptions(granularity=granularity, **read)  # type: ignore[arg-type] # as checked
    _check_weights(options)
    return options


def read_weight_method(method: Any) -> "methods.Method | methods.Layerwise":
    """A method of single weights, by its name or as a record.

    Raises:
        InputError: it is unknown, or chooses no single weights; the text lists those that do.
    """
    expected = ", ".join(methods.weight_names())
    if isinstance(method, str) and method in methods.LAYERWISE:
        return methods.LAYERWISE[method]()
    if isinstance(method, str) and method not in methods.names():
        raise InputError(
            f"method={method!r} is not known; single weights are chosen by {expected}."
        )
    found = methods.get(method) if isinstance(method, str) else method
    if not isinstance(found, methods.Method | methods.Layerwise):
        raise InputError(
            f"method={shown(method)}; expected one of {expected}, or a record "
            "such as mipp.methods.SynFlow()."
        )
    if found.measures_information and getattr(found, "rounds", 1) > 1:
        raise InputError(
            f"method={found} was given for single weights, which it chooses in one round. Leave "
            "rounds= out."
        )
    if not found.chooses_weights:
        raise InputError(
            f"method={found.name!r} chooses units, not single weights; expected one of {expected}."
        )
    return found


def _check_weights(options: WeightOptions) -> None:
    spread, method = options.allocation, options.method
    fits = method.weight_allocations
    if spread is not None and (spread not in fits or options.pattern is not None):
        expected = (
            f"one of {', '.join(map(repr, fits))} for method={method.name!r}"
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
    check_weight_refit(options.refit)


def check_weight_refit(refit: "surgery.Refit | Literal['own'] | None") -> None:
    """Raise `InputError` for a `mipp.Refit` that single weights have no use for."""
    if isinstance(refit, surgery.Refit) and (refit.fits, refit.toward) != ("weights", "old"):
        raise InputError(
            f"Refit has fits={refit.fits!r} and toward={refit.toward!r}; single weights are fitted "
            "with fits='weights' and toward='old' only."
        )
