"""Which sizes in a forward pass are spelled by integer attributes of the model's own modules.

``x.view(b, n, self.num_heads, self.head_dim)`` reaches the exported graph as four numbers. While
the model is traced its attributes are integers that remember where they come from; what they spell
is noted with the call. A unit that is removed then tells which attribute of which module has to
follow (`mipp.records.SizeAttribute`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from mipp.tracing.attention import attention_forward, written_out
from mipp.tracing.forwards import has_form, take_form
from mipp.tracing.guards import duplicate
from mipp.tracing.size_attributes import change_all, last_name

Attribute = tuple[str, str]
"""Path of a module, and the place of an integer that it holds (see `tracing.size_attributes`)."""

KEY = "mipp_sizes"
"""Name of the annotation of a node that says which noted call it is from."""

_COUNTS = {
    "h", "heads", "kv_heads", "n_head", "n_heads", "n_kv_head", "n_kv_heads", "n_local_heads",
    "n_local_kv_heads", "nhead", "nheads", "num_attention_heads", "num_head", "num_heads",
    "num_key_value_heads", "num_kv_heads", "num_q_heads", "num_query_heads",
}  # fmt: skip


_SIZES = {
    "attention_head_size", "d_head", "d_k", "d_v", "dim_head", "dim_per_head", "head_dim",
    "head_size", "head_width", "key_dim", "size_per_head",
}  # fmt: skip


def counts_units(*names: str) -> None:
    """Say that attributes of these names count what can be removed, as ``num_heads`` does.

    Where a layer's channels are split in two dimensions, such as heads and the features of a head,
    the one that an attribute of such a name spells gets smaller, and the other one stays. In
    configs, lists or dicts a name is the last one (``n_head`` of ``self.config.n_head``), or
    the whole place, such as ``shape[0]`` where ``self.shape`` is a tuple.
    """
    _COUNTS.update(names)


def _counts(attribute: Attribute) -> bool:
    place = attribute[1]
    return place in _COUNTS or (last_name(place) in _COUNTS)


class Spelled(int):
    """The value of an attribute, or a product with it, and the attributes in that product."""

    attributes: tuple[Attribute, ...] = ()
    values: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, value: int, attributes: tuple[Attribute, ...], values: tuple[int, ...]
    ) -> "Spelled":
        """``value`` as a product in which ``attributes``, of these values, are factors."""
        made = cls(value)
        made.attributes, made.values = attributes, values
        return made

    @property
    def counts(self) -> bool:
        """Whether one of the attributes counts units."""
        return any(_counts(item) for item in self.attributes)

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

        ``inside``: what is in the things that are counted gets less, not their number.
        """
        if len(self.attributes) == 1:
            return self.attributes[0]
        found = [item for item in self.attributes if _counts(item) != inside]
        return found[0] if len(found) == 1 else None

    def __mul__(self, other: object) -> Any:
        """A product remembers the attributes of both factors."""
        made = int(self).__mul__(other)  # type: ignore[operator] # may be NotImplemented
        if type(made) is not int:
            return made
        if not isinstance(other, Spelled):
            return Spelled.of(made, self.attributes, self.values)
        return Spelled.of(made, self.attributes + other.attributes, self.values + other.values)

    __rmul__ = __mul__

    def __copy__(self) -> "Spelled":
        return self

    def __deepcopy__(self, memo: object) -> "Spelled":
        return self


class Watch(TorchFunctionMode):
    """Notes the integers of each call that has a `Spelled` one, and annotates the nodes it makes.

    ``calls``: all integers in the arguments of a call, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, ...]] = []

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs ``func`` with the annotation."""
        given = dict(kwargs or {})
        if func is F.multi_head_attention_forward and written_out(given):
            with self:
                return attention_forward(*args, **given)
        sizes = tuple(_integers([*args, *given.values()]))
        if not any(isinstance(size, Spelled) for size in sizes):
            return func(*args, **given)
        self.calls.append(sizes)
        with torch.fx.traceback.annotate({KEY: len(self.calls) - 1}):
            return func(*args, **given)


def _integers(items: Sequence[Any]) -> Iterator[int]:
    for item in items:
        if isinstance(item, int) and not isinstance(item, bool):
            yield item
        elif isinstance(item, tuple | list):
            yield from _integers(item)


def remembering(model: nn.Module) -> nn.Module:
    """A copy of a model, with the same tensors, whose integers are `Spelled`.

    Modules for which a forward for pruned ones is registered run that, see `mipp.tracing.forwards`.
    """
    tensors = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    twin = duplicate(model, tensors)
    for path, module in twin.named_modules():
        own = type(module).__module__.startswith("torch.nn.modules.")
        if own and not isinstance(module, nn.MultiheadAttention):
            continue  # their sizes follow their weights
        change_all(module, lambda place, value, path=path: _spelled(path, place, value))  # type: ignore[misc]
        if has_form(module):
            take_form(module)
    return twin


def _spelled(path: str, place: str, value: int) -> int:
    return Spelled.of(value, ((path, place),), (value,)) if value > 1 else value
