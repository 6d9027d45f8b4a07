"""Other forward passes for modules whose own takes a width for granted that pruning changes.

Attention that ends with ``reshape(b, n, c)``, where ``c`` is the width of its input, computes the
same as with ``flatten(2)``, but only while all heads are there. For such a class a forward can be
registered that runs with any number of heads: models are traced with it, and a pruned copy has it
where weights were cut. The check of the sliced model against the masked one, which runs the
class's own forward, is also a check of the registered one.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

Forward = Callable[..., Any]
_FORWARDS: dict[str, Forward] = {}
_CLASSES: dict[tuple[type[nn.Module], Forward], type[nn.Module]] = {}


def pruned_forward(*kinds: type[nn.Module] | str) -> Callable[[Forward], Forward]:
    """Registers a forward for pruned modules of some classes.

    It takes the arguments of the class's own, ``self`` first, and computes the same with weights
    and attributes of the module as they are.

    Args:
        *kinds: The classes, or their full names.
    """

    def register(forward: Forward) -> Forward:
        for kind in kinds:
            _FORWARDS[kind if isinstance(kind, str) else _full_name(kind)] = forward
        return forward

    return register


def use_registered_forward(module: nn.Module) -> None:
    """Lets a module run the forward that is registered for its class, if any, in place."""
    kind = type(module)
    forward = _FORWARDS.get(_full_name(kind))
    if forward is None:
        return
    if (kind, forward) not in _CLASSES:
        content = {
            "forward": forward,
            "__module__": __name__,
            "__reduce_ex__": lambda self, _: (_empty, (kind, forward), self.__getstate__()),
        }
        _CLASSES[kind, forward] = type(f"Pruned{kind.__name__}", (kind,), content)
    module.__class__ = _CLASSES[kind, forward]


def _empty(kind: type[nn.Module], forward: Forward) -> nn.Module:
    """An object of a class with another forward, for copies and pickles, before it has content."""
    module = kind.__new__(kind)
    _FORWARDS.setdefault(_full_name(kind), forward)
    use_registered_forward(module)
    return module


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
