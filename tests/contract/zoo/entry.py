"""One architecture of the zoo, and where all of them are listed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

N_EXAMPLES = 4
N_TOKENS = 11
"""Entries of every vocabulary in the zoo."""

TIED = "tied to channels that have to stay"
"""Reason of what meets something that stays, such as an input."""

Inputs = Callable[[], tuple[Any, ...] | dict[str, Any]]


@dataclass(frozen=True)
class Entry:
    """A small architecture and what has to come out when it is pruned.

    ``family``: what the table sorts it under. ``inputs``: positional or named arguments of one
    call, four examples. ``stays``: patterns of reasons; each is the reason of some refusal, and
    every refusal has one of them, or is of an output, of a
    single channel, or of what is tied to channels that stay. ``nothing``: the model is refused as a
    whole, with this in the text. ``uncounted``: why multiply-accumulates are told otherwise than
    PyTorch counts them.
    """

    name: str
    family: str
    make: Callable[[], nn.Module]
    inputs: Inputs
    stays: tuple[str, ...] = ()
    nothing: str = ""
    uncounted: str = ""

    def built(self) -> nn.Module:
        """The model in eval mode, float64, the same weights each time."""
        torch.manual_seed(0)
        model = self.make().double().eval()
        with torch.no_grad():  # fresh norms of ones and zeros would hide a channel out of place
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
                if tensor.dim() == 1 and tensor.is_floating_point() and "rnn" not in name:
                    tensor.uniform_(0.5, 1.5)
        return model

    def arguments(self, seed: int = 1) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """``args, kwargs`` of one call."""
        torch.manual_seed(seed)
        given = self.inputs()
        return ((), given) if isinstance(given, dict) else (given, {})


ZOO: dict[str, Entry] = {}


def entry(
    name: str, family: str, inputs: Inputs, **expected: Any
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Put what is decorated, which makes a model without arguments, into the zoo."""

    def register(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        assert name not in ZOO
        ZOO[name] = Entry(name, family, make, inputs, **expected)
        return make

    return register


def floats(*shapes: tuple[int, ...]) -> Inputs:
    """Real numbers, one tensor for each shape of an example."""
    return lambda: tuple(torch.randn(N_EXAMPLES, *s, dtype=torch.float64) for s in shapes)


def tokens(*lengths: int) -> Inputs:
    """Tokens, one tensor for each length."""
    return lambda: tuple(torch.randint(0, N_TOKENS, (N_EXAMPLES, n)) for n in lengths)
