"""What modules contain beside parameters and other modules, to put it back as it was."""

import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from enum import Enum
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

MAX_DEPTH = 4
"""How many containers deep an attribute is followed."""

_TORCHS_OWN = frozenset(vars(nn.Module())) - {"training"}
"""Attributes of every module, such as its hooks, that no forward pass sets."""

Values = dict[int, tuple[Tensor, Tensor]]
"""Tensors with copies of their values, by ``id`` of the tensor."""

SAVED: ContextVar[tuple[Values, ...]] = ContextVar("SAVED", default=())
"""What guards that are active now have copied, from the outermost to the innermost."""


class ModuleContents:
    """All that modules contain beside parameters and other modules, and how it was."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self._dicts: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self._lists: list[tuple[Any, list[Any]]] = []
        self._seen: dict[int, Any] = {}
        for model in models:
            for module in model.modules():
                self._note_module(module)
        self._versions = {id(t): t._version for t in self._tensors()}  # noqa: SLF001

    def put_back(self) -> None:
        """Makes every attribute and every item the object that it was."""
        for live, before in self._dicts:
            for key in [key for key in live if key not in before and key not in _TORCHS_OWN]:
                del live[key]
            for key, value in before.items():
                if key not in live or live[key] is not value:
                    live[key] = value
        for live, items in self._lists:
            if len(live) != len(items) or any(a is not b for a, b in zip(live, items, strict=True)):
                live.clear()
                live.extend(items)

    def tensors_changed(self) -> bool:
        """Whether a tensor was added, replaced or changed in place since."""
        if any(t._version != self._versions[id(t)] for t in self._tensors()):  # noqa: SLF001
            return True
        now = [(live.get(key), before.get(key)) for live, before in self._dicts
               for key in (live.keys() | before.keys()) - _TORCHS_OWN]  # fmt: skip
        for live, items in self._lists:
            now += [(live[n], items[n] if n < len(items) else None) for n in range(len(live))]
        return any(one is not other and _has_tensors(one) for one, other in now)

    def _tensors(self) -> Iterator[Tensor]:
        plain = (t for t in self._items() if isinstance(t, Tensor) and not t.is_inference())
        return (t for t in plain if not isinstance(t, nn.Parameter))

    def values(self) -> Values:
        """The tensors, each with its value, by ``id``."""
        found = {id(t): t for t in self._items() if isinstance(t, Tensor)}.values()
        plain = (t for t in found if not isinstance(t, nn.Parameter))
        return {id(t): (t, _value(t)) for t in plain if not (t.is_meta or is_lazy(t))}

    def replace_inference_tensors(self) -> None:
        """Puts ordinary tensors in place of those that were made under ``inference_mode``."""
        for live, before in self._dicts:
            for key, value in before.items():
                if isinstance(value, Tensor) and value.is_inference():
                    live[key] = value.clone()
        for live, items in self._lists:
            for place, value in enumerate(items):
                if isinstance(value, Tensor) and value.is_inference():
                    live[place] = value.clone()

    def _items(self) -> Iterator[Any]:
        for _, before in self._dicts:
            yield from before.values()
        for _, items in self._lists:
            yield from items

    def _note_module(self, module: nn.Module) -> None:
        if id(module) in self._seen:
            return
        self._seen[id(module)] = module
        own = {name: value for name, value in vars(module).items() if name not in _TORCHS_OWN}
        self._dicts += [(vars(module), own), (module._buffers, dict(module._buffers))]  # noqa: SLF001
        for value in own.values():
            self._note(value, 0)

    def _note(self, value: Any, depth: int) -> None:
        if isinstance(value, _PLAIN) or depth > MAX_DEPTH or id(value) in self._seen:
            return
        if isinstance(value, nn.Module):
            self._note_module(value)
            return
        self._seen[id(value)] = value
        if type(value) in (dict, OrderedDict, defaultdict):
            self._dicts.append((value, dict(value)))
            inside = list(value.values())
        elif type(value) in (list, deque):
            self._lists.append((value, list(value)))
            inside = list(value)
        elif isinstance(value, tuple | set | frozenset):
            inside = list(value)
        elif _is_simple(value):
            self._dicts.append((vars(value), dict(vars(value))))
            inside = list(vars(value).values())
        else:
            return
        for item in inside:
            self._note(item, depth + 1)


def _has_tensors(value: Any) -> bool:
    leaves = pytree.tree_leaves(value)
    return any(isinstance(leaf, Tensor) or _is_simple(leaf) for leaf in leaves)


def same_values(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one layout are equal; torch.equal takes no sparse ones."""
    if one.layout != torch.strided:
        one, other = one.to_dense(), other.to_dense()
    return torch.equal(one, other)


def _value(tensor: Tensor) -> Tensor:
    """A copy of the values; that of a guard outside of this one where they are still the same."""
    for outer in reversed(SAVED.get()):
        if id(tensor) in outer and same_values(tensor, outer[id(tensor)][1]):
            return outer[id(tensor)][1]
    return tensor.detach().clone()


def _is_simple(value: Any) -> bool:
    """Whether a value is an object of somebody's own class that is there to hold something."""
    package = type(value).__module__.partition(".")[0]
    others = package in sys.stdlib_module_names or package in ("torch", "numpy")
    own = not others or isinstance(value, SimpleNamespace)
    return own and isinstance(getattr(value, "__dict__", None), dict) and not callable(value)


_PLAIN = (Tensor, str, bytes, int, float, complex, type(None), type, Enum, torch.dtype)
"""Kinds of value that hold nothing more."""
