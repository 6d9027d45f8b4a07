"""Guards for running a user's model: afterwards it is as it was before, also after an error."""

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from mipp.checks import check_module
from mipp.errors import InputError
from mipp.tracing.function_mode import FunctionMode
from mipp.tracing.module_contents import SAVED, ModuleContents, same_values

Module = TypeVar("Module", bound=nn.Module)


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside of `torch.compile`, DistributedDataParallel or DataParallel.

    Raises:
        InputError: It is no module.
    """
    check_module(model)
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrap(model.module)
    compiled = getattr(model, "_orig_mod", None)
    return unwrap(compiled) if isinstance(compiled, nn.Module) else model


@contextmanager
def gradients_enabled() -> Iterator[None]:
    """Gradients as if the caller had not turned them off, by ``no_grad`` or ``inference_mode``.

    Works as a decorator, too. Tensors that are made inside are ordinary ones.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        yield


def check_ordinary(model: nn.Module) -> None:
    """Raises `InputError` for a model whose parameters no gradient can be taken through."""
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
    """Afterwards torch's generators of the CPU and of ``devices`` are in the same state as before.

    It yields a function that puts them back into that state at any time.
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


def mixed_seed(seed: int, epoch: int) -> int:
    """One seed made of two numbers; with a sum, epoch 1 of seed 0 would be epoch 0 of seed 1."""
    mixed = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    return int(mixed >> np.uint64(1))  # torch takes signed integers


def seed_generators(device: torch.device, seed: int, epoch: int) -> None:
    """Seeds the global generators of the CPU and of ``device``, and of no other device."""
    number = mixed_seed(seed, epoch)
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(number)


def memory_format(tensor: Tensor) -> torch.memory_format:
    """``channels_last`` (of three dimensions, too) where the tensor lies so, else contiguous."""
    for dims, layout in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if tensor.dim() == dims and tensor.is_contiguous(memory_format=layout):
            # with one channel, or one pixel, a tensor is in both formats: the plain one is usual
            return torch.contiguous_format if tensor.is_contiguous() else layout
    return torch.contiguous_format


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
def as_it_was(*models: nn.Module, values: bool = True) -> Iterator[Callable[[], None]]:
    """Evaluation mode inside; after it the models and torch's generators are as they were before.

    Put back are the mode of every module, ``requires_grad`` of every parameter, and all attributes
    and buffers: those that a forward pass assigns (activations that are kept, caches, counters) are
    again the same objects, also in lists, in dicts and in simple objects that modules hold. It
    yields a function that rewinds the generators, see `generators_kept`.

    Args:
        models: What is run inside.
        values: Whether buffers and other tensors that are changed in place get their old values
            back, too. Parameters do not.
    """
    parameters = {id(p): p for model in models for p in model.parameters()}.values()
    grads = [(parameter, parameter.requires_grad) for parameter in parameters]
    tensors = [t for model in models for t in chain(model.parameters(), model.buffers())]
    contents = ModuleContents(models)
    before = contents.values() if values else {}
    with generators_kept({t.device for t in tensors}) as rewind:
        outer = SAVED.set((*SAVED.get(), before))
        try:
            contents.replace_inference_tensors()
            for model in models:
                model.eval()
            yield rewind
        finally:
            SAVED.reset(outer)
            contents.put_back()
            for parameter, grad in grads:
                if parameter.requires_grad is not grad:
                    parameter.requires_grad_(grad)
            with torch.no_grad():
                for tensor, value in before.values():
                    if not same_values(tensor, value):
                        # what is copied into `data` of a sparse tensor is lost
                        (tensor.data if tensor.layout == torch.strided else tensor).copy_(value)


@contextmanager
def measuring(model: nn.Module, *, values: bool = True) -> Iterator[None]:
    """`as_it_was` with frozen parameters, for passes that only look at activations."""
    with as_it_was(model, values=values):
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        yield


@contextmanager
def recurrent_gradients(*models: nn.Module) -> Iterator[None]:
    """Inside, gradients go through recurrent layers on CUDA in evaluation mode.

    cuDNN computes these in training mode alone. Where there are such layers, PyTorch's own kernels
    take its place, which are slower.
    """
    cudnn = torch.backends.cudnn
    modules = (module for model in models for module in model.modules())
    if not cudnn.enabled or not any(recurrent_on_cuda(module) for module in modules):
        yield
        return
    cudnn.enabled = False
    try:
        yield
    finally:
        cudnn.enabled = True


def recurrent_on_cuda(module: nn.Module) -> bool:
    """Whether cuDNN computes this module, as it does LSTMs, GRUs and RNNs on CUDA."""
    return isinstance(module, nn.RNNBase) and any(p.is_cuda for p in module.parameters())


def checksum(tensor: Tensor) -> int:
    """A number that another tensor of the same shape rarely has."""
    values = tensor.detach()
    values = values if values.layout == torch.strided else values.to_dense()
    flat = values.contiguous().flatten().view(torch.uint8)
    whole = flat[: len(flat) // 4 * 4].view(torch.int32)
    return int(whole.sum(dtype=torch.int64)) + int(flat[len(whole) * 4 :].sum(dtype=torch.int64))


def duplicate(model: Module, stand_ins: Mapping[int, Any] | None = None) -> Module:
    """A deep copy of a model, without the tensors that it caches in dicts.

    A tensor that belongs to a graph of gradients, such as an activation that a forward pass has
    kept, is copied without the graph; `copy.deepcopy` alone refuses it.

    Args:
        model: What is copied.
        stand_ins: ``id`` of an object -> what the copy has in its place.
    """
    with _WithoutGraph():
        return forget_cached(copy.deepcopy(model, dict(stand_ins or {})))


class _WithoutGraph(FunctionMode):
    """Lets `copy.deepcopy` copy tensors that are no leaves."""

    def call(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Runs ``func``, on a detached tensor if it is a copy of one that has a graph."""
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            memo[id(tensor)] = tensor.detach().clone()
            return memo[id(tensor)]
        return func(*args, **kwargs)


def forget_cached(model: Module) -> Module:
    """Empties, in place, the dicts of tensors that modules keep between forward passes.

    They are known by their name and their keys, which are devices: timm's models with relative
    positions keep in ``attention_bias_cache`` what they have made of a parameter, for each device,
    in the size that it had.
    """
    for module in model.modules():
        for name, value in vars(module).items():
            cache = "cache" in name and isinstance(value, dict)
            if cache and all(_is_device(k) and isinstance(t, Tensor) for k, t in value.items()):
                value.clear()
    return model


def _is_device(key: object) -> bool:
    if isinstance(key, str):
        return bool(re.fullmatch(r"(cpu|cuda|mps|xpu|meta)(:\d+)?", key))
    return isinstance(key, torch.device)


class Unannounced:
    """First base of a class that is derived from a user's class without that class noticing.

    Classes often note those that are derived from them, in ``__init_subclass__``.
    """

    def __init_subclass__(cls, **_: Any) -> None:
        pass
