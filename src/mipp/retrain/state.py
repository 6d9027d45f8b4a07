"""What training borrows and puts back, also after an error."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import numpy as np
import torch
from torch import nn


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Train / eval mode of every module is as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def generators_kept(device: torch.device) -> Iterator[None]:
    """The global generators of the CPU and of ``device`` are as before afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def seed_generators(device: torch.device, seed: int, epoch: int) -> None:
    """Seed the global generators of the CPU and of ``device``, and of no other device.

    A pair of numbers seeds them: with a sum, epoch 1 of seed 0 would be epoch 0 of seed 1.
    """
    mixed = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    number = int(mixed >> np.uint64(1))  # torch takes signed integers
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(number)


@contextmanager
def channels_last(model: nn.Module, *, enabled: bool) -> Iterator[None]:
    """Weights of convolutions lie channels-last; afterwards all strides are as before."""
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
