"""Inputs of a model, for commands that only look at it."""

from typing import Any

import torch

from mipp import models
from mipp.cli.datasets import Source
from mipp.cli.model_names import Network
from mipp.errors import InputError


def examples(network: Network, source: Source | None, shape: str | None, seed: int) -> Any:
    """Batches of the data, or a random one of the shape that is given or usual."""
    if source is not None and shape is None:
        return source.test()
    if shape is not None:
        sizes = _read_shape(shape)
    elif network.name in models.names():
        sizes = models.input_shape(network.name)
    elif network.input_shape is not None:
        sizes = network.input_shape
    else:
        raise InputError(
            f"the inputs of {network.name} are not known. Give the shape of one, such as "
            "--input 3,32,32, or --data."
        )
    generator = torch.Generator().manual_seed(seed)
    if network.vocabulary is not None:
        return [{"input_ids": torch.randint(network.vocabulary, (4, *sizes), generator=generator)}]
    return [torch.randn(4, *sizes, generator=generator)]


def _read_shape(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise InputError(f"--input {text}: expected whole numbers with commas, such as 3,224,224.")
    return sizes
