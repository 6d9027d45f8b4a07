"""Whether the fields of a record hold what they are declared to hold."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from functools import cache, wraps
from inspect import Parameter, signature
from numbers import Integral, Real
from textwrap import shorten
from types import NoneType, UnionType
from typing import (
    Any,
    Literal,
    ParamSpec,
    Protocol,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np
from torch import nn

from mipp.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")


def check_fields(record: Any, *, owner: str | None = None) -> None:
    """Raises `InputError` for the first field of a dataclass whose value is not of its type.

    Numbers of numpy become Python's, so that JSON can hold them. Lists pass for tuples; truth
    values are no numbers.

    Args:
        record: An instance of a dataclass.
        owner: What the text calls the record, its class by default; an empty one for keywords.
    """
    kind: Any = type(record)
    owner = kind.__name__ if owner is None else owner
    hints = _hints(kind)
    for one in fields(record):
        value, hint = getattr(record, one.name), hints[one.name]
        if isinstance(value, np.number):
            value = value.item()
            object.__setattr__(record, one.name, value)
        if not fits(value, hint):
            given = f"{one.name}={shown(value)}"
            if get_origin(hint) is Literal:
                has = f"{owner} has " if owner else ""
                raise InputError(f"{has}{given}; expected one of {', '.join(_words(hint))}.")
            raise InputError(
                f"{f'{owner}({given})' if owner else given} was given, of type "
                f"{type(value).__name__}; expected {' or '.join(_words(hint))}"
                f"{_called(value) or _such_as(one)}."
            )
        if isinstance(value, int) and abs(value) >= 2**63:
            what = f"{one.name} of {owner}" if owner else one.name
            raise InputError(
                f"{what} is a number of {len(str(value))} digits; expected one "
                "below 2**63. Give a smaller one."
            )


def check_module(model: object) -> None:
    """Raises `InputError` unless the model is a module, not a class of them or a plain function."""
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else shown(model)
        raise InputError(
            f"The model is {what}; expected a torch.nn.Module, such as torch.nn.Linear(4, 2)"
            f"{'. Call the class to make one' if isinstance(model, type) else ''}."
        )


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Refuses arguments that are not of the types in the signature, with an `InputError`.

    For functions that users call. What is annotated `Any` is left to the function, and so are text
    and `Path` in place of one another.
    """
    takes = signature(function)

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            hints, given = _hints(function), takes.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # Python's own text names the function
        for name, argument in given.arguments.items():
            value = argument
            if takes.parameters[name].kind is Parameter.VAR_KEYWORD:
                continue
            if isinstance(value, np.number):
                value = given.arguments[name] = value.item()
            hint = hints.get(name, Any)
            if name != "self" and not fits(value, hint):
                default = takes.parameters[name].default
                such = "" if default in (Parameter.empty, None) else f", such as {default!r}"
                raise InputError(
                    f"{function.__qualname__}({name}={shown(value)}) was given, of type "
                    f"{type(value).__name__}; expected {' or '.join(_words(hint))}"
                    f"{_called(value) or such}."
                )
            if name == "seed" and not 0 <= value < 2**63:
                raise InputError(f"seed={value}; expected a whole number from 0 up to 2**63.")
        return function(*given.args, **given.kwargs)

    return wrapper


def shown(value: object) -> str:
    """A value in an error's text, in one short line."""
    return shorten(repr(value), 80, placeholder=" ...")


def fits(value: Any, hint: Any) -> bool:  # noqa: PLR0911 - one for each kind of hint
    """Whether the value is of the type that a hint declares, elements included."""
    origin, inner = get_origin(hint), get_args(hint)
    if isinstance(hint, TypeVar):
        return hint.__bound__ is None or fits(value, hint.__bound__)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if hint in (int, float):
        number = Integral if hint is int else Real
        return isinstance(value, number) and not isinstance(value, bool)
    if origin is tuple and inner[-1] is not Ellipsis:
        alike = isinstance(value, tuple | list) and len(value) == len(inner)
        return alike and all(fits(one, part) for one, part in zip(value, inner, strict=True))
    if origin is tuple:
        return isinstance(value, tuple | list) and all(fits(one, inner[0]) for one in value)
    if origin is Sequence:
        several = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes)
        return several and all(fits(one, inner[0]) for one in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            fits(key, inner[0]) and fits(one, inner[1]) for key, one in value.items()
        )
    if origin is Callable or hint is Callable:
        return callable(value)
    # a class has the attributes that a protocol asks of its instances
    return isinstance(value, origin or hint) and not isinstance(value, type)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _words(hint: Any) -> list[str]:
    """What a hint takes, in words, each once."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        found = [word for one in inner for word in _words(one)]
        if "a number" in found:
            found = [word for word in found if word != "a whole number"]
        return list(dict.fromkeys(found))
    if origin is Literal:
        return [repr(one) for one in inner]
    if origin is tuple:
        return [f"a tuple, each of it {' or '.join(_words(inner[0]))}"]
    if origin is Mapping:
        return [f"a mapping to {' or '.join(_words(inner[1]))}"]
    # a protocol of `__call__` alone is a function with names for its arguments
    if origin is Callable or (
        Protocol in getattr(hint, "__bases__", ()) and "__call__" in vars(hint)
    ):
        return ["a function"]
    if isinstance(hint, TypeVar):
        return _words(hint.__bound__)
    if origin in (Sequence, Iterable):
        return ["a list"]
    plain = {bool: "True or False", int: "a whole number", float: "a number", str: "text",
             NoneType: "None"}  # fmt: skip
    article = "an" if hint.__name__[0] in "AEIOUaeiou" else "a"
    return [plain.get(hint) or f"{article} {hint.__name__}"]


def _called(value: object) -> str:
    """What to do with a class that was given in place of an instance."""
    return f"; call the class: {value.__name__}()" if isinstance(value, type) else ""


def _such_as(one: "Field[Any]") -> str:
    """The default, where it is a plain value."""
    plain = one.default is not MISSING and one.default is not None and not callable(one.default)
    return f", such as {one.default!r}" if plain else ""
