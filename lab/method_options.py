"""What a suite says of a method, as keywords of `mipp.plan`; everything is checked beforehand."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from mipp import methods
from mipp.errors import InputError
from mipp.options import Options
from mipp.planning.option_values import unit_options

OWN = (
    "allocation", "estimator", "noise", "target", "order", "passes", "rounds", "min_units",
    "round_to",
)  # fmt: skip
"""Options of `mipp.plan` that a suite may set; the others are the runner's."""
WIDTHS = "widths"
"""``widths = "mipp"``: as many units of each group as MIPP leaves for the same budget."""


def arguments(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of `mipp.plan`: ``method`` and its options; ``widths`` is left to the caller.

    Raises:
        InputError: a method or an option that there is not, or a value that does not fit.
    """
    given = {key: value for key, value in options.items() if key != WIDTHS}
    if options.get(WIDTHS, "mipp") != "mipp":
        raise InputError(f"options.{WIDTHS} = {options[WIDTHS]!r}; expected 'mipp'.")
    if name == "mipp":
        _known(given, name, ())
        unit_options(**given)
        return given
    method = methods.get(name)
    own = {field.name for field in fields(method)}
    _known(given, name, own)
    hints = get_type_hints(type(method))
    record = {key: _fitting(key, given[key], hints[key]) for key in given if key in own}
    rest = {key: value for key, value in given.items() if key not in own}
    unit_options(**rest)
    return {"method": replace(method, **record), **rest}


def record_of(name: str, options: Mapping[str, Any]) -> methods.Method | None:
    """The method's record; None for MIPP."""
    found = arguments(name, options).get("method")
    return found if isinstance(found, methods.Method) else None


def trains_last(name: str, options: Mapping[str, Any]) -> bool:
    """Whether the weights that the method leaves are trained already, so that nobody retrains."""
    record = record_of(name, options)
    return isinstance(record, methods.TrainingMethod) and getattr(record, "last_training", True)


def _known(given: Mapping[str, Any], name: str, own: "set[str] | tuple[str, ...]") -> None:
    unknown = sorted(set(given) - set(OWN) - set(own))
    if unknown:
        raise InputError(
            f"options.{unknown[0]} is no option of {name}; expected some of "
            f"{', '.join(sorted({*OWN, *own, WIDTHS}))}."
        )


def _fitting(key: str, value: Any, hint: Any) -> Any:
    try:
        return TypeAdapter(hint).validate_python(value, strict=True)
    except ValidationError as error:
        words = error.errors()[0]["msg"]
        raise InputError(f"options.{key} = {value!r}: {words}.") from error


assert set(OWN) - {"noise"} <= set(Options.__dataclass_fields__)
