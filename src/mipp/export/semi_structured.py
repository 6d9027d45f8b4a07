"""Weights with 2:4 sparsity for the sparse tensor cores of GPUs."""

from typing import TypeVar

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from mipp.checks import checked
from mipp.errors import InputError
from mipp.tracing.guards import duplicate

CAPABILITY = (8, 0)
"""Of the first GPUs with sparse tensor cores (Ampere)."""

Module = TypeVar("Module", bound=nn.Module)


@checked
def to_semi_structured(model: Module) -> Module:
    """Copy a model and convert its linear layers with 2:4 sparsity to semi-structured tensors.

    PyTorch's semi-structured sparse tensors take about 9/16 of the memory in 16 bits and run on
    sparse tensor cores. The copy is for inference: keep the model itself for training and for
    `mipp.save`. Each sparse tensor is converted back and compared with the weight, bit for bit.
    Convolutions stay dense.

    Raises:
        InputError: if no linear layer has the pattern, the model is not on a GPU with such cores,
            or PyTorch does not support a layer's shape or number type there.

    Examples:
        >>> import mipp
        >>> model = mipp.models.build("mlp", seed=0)
        >>> to_semi_structured(model)
        Traceback (most recent call last):
        mipp.errors.InputError: No linear layer of the model has the pattern 2:4 ...
    """
    names = semi_structured_layers(model)
    if not names:
        raise InputError(
            "No linear layer of the model has the pattern 2:4 (two of four neighbouring inputs of "
            "every output are zero). Make one with mipp.prune(model, batches, granularity='2:4')."
        )
    weight = model.get_submodule(names[0]).get_parameter("weight")
    if not weight.is_cuda or torch.cuda.get_device_capability(weight.device) < CAPABILITY:
        raise InputError(
            f"The model is on {weight.device}; semi-structured sparse tensors need a CUDA device "
            f"of compute capability {CAPABILITY[0]}.{CAPABILITY[1]} or more. Move the model there, "
            "with model.half().cuda(), or go on with its zeros, which compute the same."
        )
    sparse = duplicate(model)
    for name in names:
        layer = sparse.get_submodule(name)
        dense = layer.get_parameter("weight").detach()
        try:
            compressed = torch.sparse.to_sparse_semi_structured(dense)
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"PyTorch takes no semi-structured tensor for {name}, a weight of shape "
                f"{tuple(dense.shape)} and {dense.dtype}: {error}. Use model.half() or bfloat16, "
                "and inputs and outputs that are multiples of 64."
            ) from error
        if not torch.equal(compressed.to_dense(), dense):
            raise InputError(
                f"The semi-structured tensor of {name} is not equal to its weight; report this, "
                "and go on with the zeros, which compute what was planned."
            )
        layer.weight = nn.Parameter(compressed, requires_grad=False)
    return sparse


def semi_structured_layers(model: nn.Module) -> list[str]:
    """Names of the linear layers with 2:4 sparsity: two of any four neighbouring inputs are zero.

    Examples:
        >>> layer = nn.Linear(4, 1)
        >>> layer.weight.data = torch.tensor([[0.0, 2.0, 0.0, -1.0]])
        >>> semi_structured_layers(nn.Sequential(layer, nn.ReLU()))
        ['0']
    """
    return [name for name, layer in model.named_modules()
            if isinstance(layer, nn.Linear) and has_pattern(layer.weight.detach())]  # fmt: skip


def has_pattern(weight: Shaped[Tensor, "m d"], most: int = 2, run: int = 4) -> bool:
    """Whether no run of neighbouring inputs has more than ``most`` entries other than zero."""
    if weight.shape[1] % run:
        return False
    return bool(((weight != 0).view(len(weight), -1, run).sum(2) <= most).all())
