"""A model as a function from tensors to tensors, as ONNX files need it."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mipp.errors import InputError

Arguments = tuple[Sequence[Any], Mapping[str, Any]]


class Flat(nn.Module):
    """Calls a model with the tensors among its arguments; all other arguments are fixed.

    Attributes:
        names: of the tensors, after the signature of ``forward``: ``x``, ``mask``, ``pair_0``.
    """

    def __init__(self, model: nn.Module, arguments: Arguments) -> None:
        super().__init__()
        self.model = model
        args, kwargs = arguments
        leaves, self._spec = pytree.tree_flatten((tuple(args), dict(kwargs)))
        self._leaves = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._places = [n for n, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        self.names = input_names(model, arguments)

    def forward(self, *tensors: Shaped[Tensor, "..."]) -> tuple[Tensor, ...]:
        """All tensors in the model's output, at any depth."""
        leaves = list(self._leaves)
        for place, tensor in zip(self._places, tensors, strict=True):
            leaves[place] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        return tuple(tensor for _, tensor in named_outputs(self.model(*args, **kwargs)))


def tensors_of(arguments: Arguments) -> list[Tensor]:
    """The tensors among the arguments, in the order of `Flat`."""
    args, kwargs = arguments
    leaves = pytree.tree_leaves((tuple(args), dict(kwargs)))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def input_names(model: nn.Module, arguments: Arguments) -> list[str]:
    """A name for each tensor among the arguments, in order, after the signature of ``forward``."""
    args, kwargs = arguments
    known: list[str] = []
    for parameter in inspect.signature(model.forward).parameters.values():
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            known.append(parameter.name)
        elif parameter.kind == parameter.VAR_POSITIONAL:
            known += [f"{parameter.name}_{n}" for n in range(len(known), len(args))]
    named = [*zip(known, args, strict=False), *kwargs.items()]
    return [name for whole, value in named for name, _ in named_outputs(value, whole)]


def named_outputs(value: object, name: str = "output") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in tuples, lists, dicts and dataclasses, named after keys, fields or positions.

    The fields of the outermost record have no prefix: ``logits`` and not ``output_logits``.
    """
    if isinstance(value, Tensor):
        yield name, value
        return
    prefix = "" if name == "output" else f"{name}_"
    items: list[tuple[str, object]] = []
    if isinstance(value, Mapping):
        items = [(f"{prefix}{key}", item) for key, item in value.items()]
    elif isinstance(value, tuple | list):
        keys = getattr(value, "_fields", None)  # of a named tuple
        items = (
            [(f"{prefix}{key}", item) for key, item in zip(keys, value, strict=True)]
            if keys
            else [(f"{name}_{n}", item) for n, item in enumerate(value)]
        )
    elif is_dataclass(value):
        items = [(f"{prefix}{f.name}", getattr(value, f.name)) for f in fields(value)]
    for key, item in items:
        yield from named_outputs(item, key)


def output_names(model: nn.Module, arguments: Arguments) -> list[str]:
    """Names of all tensors in the model's output; raises `InputError` if there are none."""
    args, kwargs = arguments
    try:
        names = [name for name, _ in named_outputs(model(*args, **kwargs))]
    except Exception as error:
        raise InputError(
            f"{type(model).__name__} fails on the batch: {type(error).__name__}: {error}. Give a "
            "batch that it takes in eval mode, on its device."
        ) from error
    if not names:
        raise InputError(
            f"{type(model).__name__} puts out no tensor; expected a tensor, or tuples, dicts or "
            "dataclasses of tensors."
        )
    return names


def batched(tensors: Sequence[Tensor]) -> list[bool]:
    """Which tensors have the batch as their first dimension: those as long as the first tensor.

    Raises:
        InputError: if no tensor has a dimension at all.
    """
    sizes = [tensor.shape[0] for tensor in tensors if tensor.dim()]
    if not sizes:
        raise InputError(
            "the batch holds no tensor with a batch dimension; give at least one tensor whose "
            "dimension 0 counts the examples."
        )
    return [tensor.dim() > 0 and tensor.shape[0] == sizes[0] for tensor in tensors]


def long(tensors: Sequence[Tensor]) -> list[bool]:
    """Which tensors are as long in their second dimension as the first one that has two.

    Raises:
        InputError: if no tensor has a second dimension.
    """
    lengths = [t.shape[1] for t, has in zip(tensors, batched(tensors), strict=True)
               if has and t.dim() > 1]  # fmt: skip
    if not lengths:
        raise InputError(
            "dynamic_length needs an input of shape (batch, length, ...), such as the tokens of a "
            "text; the batch holds none."
        )
    return [
        has and t.dim() > 1 and t.shape[1] == lengths[0]
        for t, has in zip(tensors, batched(tensors), strict=True)
    ]


def shortened(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same examples at about half their length, at least 1."""
    return [
        t[:, : max(1, t.shape[1] // 2 + 1)] if has else t
        for t, has in zip(tensors, long(tensors), strict=True)
    ]


def some_examples(tensors: Sequence[Tensor], count: int) -> list[Tensor]:
    """The first ``count`` examples, repeated from the start where there are fewer."""
    with_batch = batched(tensors)
    size = next(t.shape[0] for t, has in zip(tensors, with_batch, strict=True) if has)
    if not size:
        raise InputError("the batch holds no example; give at least one.")
    chosen = torch.arange(count) % size
    return [
        tensor[chosen.to(tensor.device)] if has else tensor
        for tensor, has in zip(tensors, with_batch, strict=True)
    ]
