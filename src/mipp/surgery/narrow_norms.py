"""Norms across units that go: in a masked model they see what the sliced model's norms see."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mipp.records import Axis, IntArray, Keep
from mipp.surgery.attributes import fit_attributes


class NarrowNorm:
    """A hook that returns the norm of the ``kept`` features alone, and zero elsewhere."""

    def __init__(self, norm: nn.Module, kept: IntArray) -> None:
        self.kept = kept
        shared = {id(tensor): tensor for tensor in norm.parameters()}
        self.narrow = copy.deepcopy(norm, dict(shared))
        for name, tensor in list(self.narrow.named_parameters(recurse=False)):
            chosen = tensor.detach()[torch.as_tensor(kept, device=tensor.device)]
            setattr(self.narrow, name, nn.Parameter(chosen))
        fit_attributes("", self.narrow, kept)

    def __call__(self, _module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """The output that takes the place of the norm's own."""
        places = torch.as_tensor(self.kept, device=output.device)
        made = self.narrow(args[0].index_select(-1, places), *args[1:])
        return torch.zeros_like(output).index_copy(-1, places, made.to(output.dtype))


def narrow_norms(masked: nn.Module, norms: tuple[Axis, ...], keep: Keep) -> None:
    """Makes the norms of a masked model go across what is kept, in place."""
    modules: Mapping[str, nn.Module] = dict(masked.named_modules(remove_duplicate=False))
    for norm in norms:
        kept = norm.kept(keep)
        if not kept.all() and kept.any():
            module = modules[norm.key.tensor]
            module.register_forward_hook(NarrowNorm(module, kept.nonzero()[0]))


def drop_narrow_norms(model: nn.Module) -> None:
    """Removes those hooks, in place."""
    for module in model.modules():
        hooks = module._forward_hooks  # noqa: SLF001 # only who registers a hook is given its handle
        for number in [n for n, hook in hooks.items() if isinstance(hook, NarrowNorm)]:
            del hooks[number]
