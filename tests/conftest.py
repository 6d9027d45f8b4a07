"""What every test shares: shapes are checked, one thread, nothing random left from before."""

import inspect
import typing

import jaxtyping
import pytest
import torch

torch.set_num_threads(1)  # the tensors are small, and tests run side by side

_SHAPED = jaxtyping.jaxtyped


def _names_a_shape(hint: object) -> bool:
    """Whether an annotation holds an array type of jaxtyping, at any depth."""
    if isinstance(hint, str):
        return '"' in hint or "'" in hint  # a forward reference to more than a class
    if isinstance(hint, (list, tuple)):
        return any(map(_names_a_shape, hint))
    is_array = inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray)
    return is_array or _names_a_shape(typing.get_args(hint))


def _shaped(made=None, *, typechecker):
    """`jaxtyped`, where a signature names a shape; mypy has seen the other types.

    The import hook of jaxtyping binds the arguments of every call of every function, which takes
    as long as all that the tests do besides.
    """
    if made is None:
        return lambda made: _shaped(made, typechecker=typechecker)
    function = made.__init__ if inspect.isclass(made) else made
    function = getattr(function, "fget", None) or getattr(function, "__func__", function)
    hints = getattr(function, "__annotations__", {}).values()
    return _SHAPED(made, typechecker=typechecker) if any(map(_names_a_shape, hints)) else made


jaxtyping.jaxtyped = _shaped  # the hook looks it up when it imports a module


@pytest.fixture(autouse=True)
def _fixed_global_seed() -> None:
    """Models built without a seed of their own are the same in every run."""
    torch.manual_seed(0)
