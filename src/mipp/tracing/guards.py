"""Running somebody's model without a trace: it is as it was afterwards, also after an error."""

import copy
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from itertools import chain
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from mipp.errors import InputError
from mipp.tracing.size_attributes import forget_cached

Module = TypeVar("Module", bound=nn.Module)

MAX_DEPTH = 4
"""How many containers deep an attribute is followed."""

_TORCHS_OWN = frozenset(vars(nn.Module())) - {"training"}
"""Attributes of every module, such as its hooks, that no forward pass sets."""


@contextmanager
def gradients_enabled() -> Iterator[None]:
    """Gradients as if the caller had not turned them off, by ``no_grad`` or ``inference_mode``.

    Works as a decorator, too. Tensors that are made inside are ordinary ones.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        yield


def check_ordinary(model: nn.Module) -> None:
    """Raise `InputError` for a model whose parameters no gradient can be taken through."""
    for name, parameter in model.named_parameters():
        if parameter.is_inference():
            raise InputError(
                f"{type(model).__name__} was made under torch.inference_mode: no gradient goes "
                f"through {name}, and nothing can train it. Build or load the model outside of it, "
                "or give copy.deepcopy(model), made outside of it."
            )


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards every module is in training or evaluation mode as before."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def generators_kept(devices: Iterable[torch.device]) -> Iterator[Callable[[], None]]:
    """Afterwards torch's generators of the CPU and of ``devices`` are in the state of before.

    What it gives puts them back into that state at any time.
    """
    gpus = [device for device in devices if device.type == "cuda"]
    cpu_state, gpu_states = torch.get_rng_state(), [torch.cuda.get_rng_state(gpu) for gpu in gpus]

    def rewind() -> None:
        torch.set_rng_state(cpu_state)
        for gpu, state in zip(gpus, gpu_states, strict=True):
            torch.cuda.set_rng_state(state, gpu)

    try:
        yield rewind
    finally:
        rewind()


@contextmanager
def channels_last(model: nn.Module, *, enabled: bool) -> Iterator[None]:
    """The weights of convolutions lie channels-last; afterwards all strides are as before."""
    if not enabled:
        yield
        return
    strides = [(tensor, tensor.stride()) for tensor in chain(model.parameters(), model.buffers())]
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # not in its stub
    try:
        yield
    finally:
        for tensor, stride in strides:
            if tensor.stride() != stride:
                as_before = torch.empty_strided(
                    tensor.shape, stride, dtype=tensor.dtype, device=tensor.device
                )
                tensor.data = as_before.copy_(tensor.detach())


@contextmanager
def as_it_was(*models: nn.Module, values: bool = True) -> Iterator[None]:
    """Evaluation mode inside; after it the models and torch's generators are as they were before.

    Put back are the mode of every module, ``requires_grad`` of every parameter, and all attributes
    and buffers: those that a forward pass assigns (activations that are kept, caches, counters) are
    again the same objects, also in lists, in dicts and in simple objects that modules hold.

    Args:
        models: What is run inside.
        values: Whether buffers and other tensors that are changed in place get their old values
            back, too. Parameters do not.
    """
    parameters = {id(p): p for model in models for p in model.parameters()}.values()
    grads = [(parameter, parameter.requires_grad) for parameter in parameters]
    devices = sorted({p.device.index or 0 for p in parameters if p.is_cuda})
    held = _Held(models)
    before = held.values() if values else []
    with torch.random.fork_rng(devices=devices):
        try:
            held.replace_inference_tensors()
            for model in models:
                model.eval()
            yield
        finally:
            held.put_back()
            for parameter, grad in grads:
                if parameter.requires_grad is not grad:
                    parameter.requires_grad_(grad)
            with torch.no_grad():
                for tensor, value in before:
                    if not torch.equal(tensor, value):
                        tensor.data.copy_(value)


def duplicate(model: Module, stand_ins: Mapping[int, Any] | None = None) -> Module:
    """A deep copy of a model, without what it caches in dicts (`size_attributes.forget_cached`).

    A tensor that belongs to a graph of gradients, such as an activation that a forward pass has
    kept, is copied without the graph; `copy.deepcopy` alone refuses it.

    Args:
        model: What is copied.
        stand_ins: ``id`` of an object -> what the copy has in its place.
    """
    with _WithoutGraph():
        return forget_cached(copy.deepcopy(model, dict(stand_ins or {})))


class _WithoutGraph(TorchFunctionMode):
    """Lets `copy.deepcopy` copy tensors that are no leaves."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs ``func``, on a detached tensor if it is a copy of one that has a graph."""
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            memo[id(tensor)] = tensor.detach().clone()
            return memo[id(tensor)]
        return func(*args, **dict(kwargs or {}))


class Unannounced:
    """First base of a class that is made of a user's class, of which that one is not to know.

    Classes often note those that are derived from them, in ``__init_subclass__``.
    """

    def __init_subclass__(cls, **_: Any) -> None:
        pass


class _Held:
    """All that modules hold beside parameters and other modules, and how it was."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self._dicts: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self._lists: list[tuple[Any, list[Any]]] = []
        self._seen: dict[int, Any] = {}
        for model in models:
            for module in model.modules():
                self._note_module(module)

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

    def values(self) -> list[tuple[Tensor, Tensor]]:
        """The tensors, each with a copy."""
        found = {id(t): t for t in self._items() if isinstance(t, Tensor)}.values()
        plain = (t for t in found if not isinstance(t, nn.Parameter))
        return [(t, t.detach().clone()) for t in plain if not (t.is_meta or is_lazy(t))]

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


def _is_simple(value: Any) -> bool:
    """Whether a value is an object of somebody's own class that is there to hold something."""
    package = type(value).__module__.partition(".")[0]
    others = package in sys.stdlib_module_names or package in ("torch", "numpy")
    own = not others or isinstance(value, SimpleNamespace)
    return own and isinstance(getattr(value, "__dict__", None), dict) and not callable(value)


_PLAIN = (Tensor, str, bytes, int, float, complex, type(None), type, Enum, torch.dtype)
"""Kinds of value that hold nothing more."""


def mixed_seed(seed: int, epoch: int) -> int:
    """One seed made of two numbers; with a sum, epoch 1 of seed 0 would be epoch 0 of seed 1."""
    mixed = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    return int(mixed >> np.uint64(1))  # torch takes signed integers


def seed_generators(device: torch.device, seed: int, epoch: int) -> None:
    """Seed the global generators of the CPU and of ``device``, and of no other device."""
    number = mixed_seed(seed, epoch)
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(number)
