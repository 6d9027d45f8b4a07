"""Integers that modules hold, and which of them give the sizes in a forward pass.

``x.view(b, n, self.num_heads, self.head_dim)`` reaches the exported graph as four numbers. While
the model is traced its attributes are integers that remember where they come from; the sizes that
they give are noted with the call. A unit that is removed then shows which attribute of which module
has to follow (`mipp.records.SizeAttribute`).

Integers lie in attributes, and in configs, dicts, lists or tuples of these. A place is written as
code has it: ``num_heads``, ``config.n_head``, ``sizes['heads']``, ``shape[0]``. What is changed is
changed in copies, so that a config that many modules share can have another number in each of them.
"""

import copy
import math
import re
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from mipp.tracing.forwards import use_registered_forward
from mipp.tracing.function_mode import FunctionMode
from mipp.tracing.guards import duplicate

MAX_DEPTH = 3
"""How deep a config may lie in others."""

Change = Callable[[str, int], int]
"""What becomes of the integer at a place."""


def integers(module: nn.Module) -> dict[str, int]:
    """All integers that a module holds, by place."""
    found: dict[str, int] = {}

    def note(place: str, value: int) -> int:
        found[place] = value
        return value

    change_all(module, note)
    return found


def put(module: nn.Module, place: str, value: int) -> None:
    """Sets the integer at one place of a module, and of no other that shares what it lies in."""
    root = re.split(r"[.\[]", place, maxsplit=1)[0]
    old_root = vars(module)[root]
    vars(module)[root] = _changed(old_root, root, lambda at, old: value if at == place else old)


def change_all(module: nn.Module, change: Change) -> None:
    """Sets every integer that a module holds to what ``change`` makes of it."""
    for name, value in list(vars(module).items()):
        if type(value) is int or not name.startswith("_"):
            vars(module)[name] = _changed(value, name, change)


def last_name(place: str) -> str:
    """``config.heads[1]`` -> ``heads``."""
    return str(re.findall(r"[A-Za-z_]\w*", place)[-1])


def _changed(value: Any, place: str, change: Change, depth: int = 0) -> Any:
    """The same object where nothing in it changes, else a copy."""
    if type(value) is int:
        return change(place, value)
    items = _items(value, place)
    if depth > MAX_DEPTH or not items:
        return value
    new = {key: _changed(item, at, change, depth + 1) for key, (at, item) in items.items()}
    if all(new[key] is item for key, (_, item) in items.items()):
        return value
    if isinstance(value, tuple):
        made = list(new.values())
        return type(value)(*made) if hasattr(value, "_fields") else tuple(made)
    changed = copy.copy(value)
    if isinstance(value, list):
        changed[:] = new.values()
    else:
        (changed if isinstance(value, dict) else vars(changed)).update(new)
    return changed


def _items(value: Any, place: str) -> dict[Any, tuple[str, Any]]:
    """The items of an object, with their places; none where it is more than plain data."""
    if type(value) is list or (isinstance(value, tuple) and type(value).__module__ != "torch"):
        found = {index: (f"{place}[{index}]", item) for index, item in enumerate(value)}
    elif type(value) is dict:
        found = {key: (f"{place}[{key!r}]", item) for key, item in value.items()}
    elif isinstance(value, type | Enum | nn.Module | Tensor) or callable(value):
        return {}
    else:
        found = {
            key: (f"{place}.{key}", item) for key, item in getattr(value, "__dict__", {}).items()
        }
    # what holds modules or tensors is no config: a copy of it might be another thing
    live = any(isinstance(item, nn.Module | Tensor) for _, item in found.values())
    return {} if live else found


Attribute = tuple[str, str]
"""Path of a module, and the place of an integer that it holds."""

SIZES_KEY = "mipp_sizes"
"""Name of the annotation of a node that says which noted call it is from."""

_COUNTS = {
    "h", "heads", "kv_heads", "n_head", "n_heads", "n_kv_head", "n_kv_heads", "n_local_heads",
    "n_local_kv_heads", "nhead", "nheads", "num_attention_heads", "num_head", "num_heads",
    "num_key_value_heads", "num_kv_heads", "num_q_heads", "num_query_heads",
}  # fmt: skip
"""Names of attributes that count what can be removed."""

_SIZES = {
    "attention_head_size", "d_head", "d_k", "d_v", "dim_head", "dim_per_head", "head_dim",
    "head_size", "head_width", "key_dim", "size_per_head",
}  # fmt: skip
"""Names of attributes that are the size of what is counted."""


def counts_units(*names: str) -> None:
    """Declares that attributes of these names count what can be removed, as ``num_heads`` does.

    Where a layer's channels are split in two dimensions, such as heads and the features of a head,
    the one whose size is such an attribute gets smaller, and the other one stays.

    Args:
        *names: Names of attributes. In configs, lists or dicts a name is the last one (``n_head``
            of ``self.config.n_head``), or the whole place, such as ``shape[0]`` where
            ``self.shape`` is a tuple.
    """
    _COUNTS.update(names)


def is_count(place: str) -> bool:
    """Whether the integer at a place counts what can be removed, by its name."""
    return place in _COUNTS or last_name(place) in _COUNTS


class AttributeInt(int):
    """The value of an attribute, or a product with it, which knows the attributes in it.

    Attributes:
        attributes: The attributes that are factors of the product.
        values: The value of each of them.
    """

    attributes: tuple[Attribute, ...] = ()
    values: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, value: int, attributes: tuple[Attribute, ...], values: tuple[int, ...]
    ) -> "AttributeInt":
        """``value`` as a product in which ``attributes``, of these values, are factors."""
        made = cls(value)
        made.attributes, made.values = attributes, values
        return made

    @property
    def counts(self) -> bool:
        """Whether one of the attributes counts units."""
        return any(is_count(place) for _, place in self.attributes)

    @property
    def measures(self) -> bool:
        """Whether one of the attributes is the size of what is counted, as ``head_dim`` is."""
        names = (last_name(place) for _, place in self.attributes)
        return any(name in _SIZES for name in names)

    @property
    def known(self) -> bool:
        """Whether it is known to change with its attributes alone.

        A factor that is no attribute may itself be the size of what gets smaller; beside a number
        of heads it is a number of examples, or of projections made at once.
        """
        return self.counts or math.prod(self.values) == self

    def changing(self, *, inside: bool = False) -> Attribute | None:
        """The attribute that changes when the product does; None where that is not clear.

        Args:
            inside: Not their number gets smaller, but what is in the things that are counted.
        """
        if len(self.attributes) == 1:
            return self.attributes[0]
        found = [item for item in self.attributes if is_count(item[1]) != inside]
        return found[0] if len(found) == 1 else None

    def __mul__(self, other: object) -> Any:
        """A product remembers the attributes of both factors."""
        made = int(self).__mul__(other)  # type: ignore[operator] # may be NotImplemented
        if type(made) is not int:
            return made
        if not isinstance(other, AttributeInt):
            return AttributeInt.of(made, self.attributes, self.values)
        return AttributeInt.of(made, self.attributes + other.attributes, self.values + other.values)

    __rmul__ = __mul__

    def __add__(self, other: object) -> Any:
        """A sum remembers its terms, if all of them are known."""
        return AttributeSum.of((self,)) + other

    __radd__ = __add__

    def __copy__(self) -> "AttributeInt":
        return self

    def __deepcopy__(self, memo: object) -> "AttributeInt":
        return self


class AttributeSum(int):
    """A sum of sizes, where one part of a tensor ends and the next one starts.

    Attributes:
        terms: In the order in which they were added.
    """

    terms: tuple[AttributeInt, ...] = ()

    @classmethod
    def of(cls, terms: tuple[AttributeInt, ...]) -> "AttributeSum":
        """The sum of these."""
        made = cls(sum(int(term) for term in terms))
        made.terms = terms
        return made

    def __add__(self, other: object) -> Any:
        """A sum with one more term, or those of another sum; a plain number otherwise."""
        terms = terms_of(other)
        if terms is None or not isinstance(other, int):
            return int(self).__add__(other)  # type: ignore[operator] # may be NotImplemented
        return AttributeSum.of(self.terms + terms)

    def __radd__(self, other: object) -> Any:
        """The same, where the sum is on the right."""
        terms = terms_of(other)
        if terms is None or not isinstance(other, int):
            return int(self).__radd__(other)  # type: ignore[operator] # may be NotImplemented
        return AttributeSum.of(terms + self.terms)

    def __copy__(self) -> "AttributeSum":
        return self

    def __deepcopy__(self, memo: object) -> "AttributeSum":
        return self


def terms_of(value: object) -> tuple[AttributeInt, ...] | None:
    """The attributes that a number is the sum of, none for 0; None where it has other terms."""
    if isinstance(value, AttributeSum):
        return value.terms
    if isinstance(value, AttributeInt):
        return (value,)
    return () if type(value) is int and value == 0 else None


class NoteSizes(FunctionMode):
    """Notes the integers of calls that have one from attributes, and annotates the nodes they make.

    Attributes:
        calls: All integers in the arguments of each call that was noted, in order.
    """

    splits_attention = True

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, ...]] = []

    def call(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Runs ``func`` with the annotation."""
        sizes = tuple(_integers([*args, *kwargs.values()]))
        if not any(isinstance(size, AttributeInt | AttributeSum) for size in sizes):
            return func(*args, **kwargs)
        self.calls.append(sizes)
        with torch.fx.traceback.annotate({SIZES_KEY: len(self.calls) - 1}):
            return func(*args, **kwargs)


def _integers(items: Sequence[Any]) -> Iterator[int]:
    for item in items:
        if isinstance(item, int) and not isinstance(item, bool):
            yield item
        elif isinstance(item, tuple | list):
            yield from _integers(item)
        elif isinstance(item, slice):
            yield from _integers((item.start, item.stop))


def with_attribute_ints(model: nn.Module) -> nn.Module:
    """A copy of a model, with the same tensors, whose integers are `AttributeInt`.

    Modules run the forward that is registered for pruned ones, see `mipp.tracing.forwards`.
    """
    twin = duplicate(model, {id(t): t for t in [*model.parameters(), *model.buffers()]})
    for path, module in twin.named_modules():
        own = type(module).__module__.startswith("torch.nn.modules.")
        if own and not isinstance(module, nn.MultiheadAttention):
            continue  # their sizes follow their weights
        change_all(module, lambda place, value, path=path: _attribute_int(path, place, value))  # type: ignore[misc]
        use_registered_forward(module)
    return twin


def _attribute_int(path: str, place: str, value: int) -> int:
    return AttributeInt.of(value, ((path, place),), (value,)) if value > 1 else value
