"""Small nets, batches and questions for the tests of methods."""

from contextlib import contextmanager

import jaxtyping
import numpy as np
import torch
from torch import nn

from mipp import graph, surgery
from mipp.methods import Question
from mipp.methods.shared.iterative import live_entries, workable
from mipp.statistics import read_batches

CLASSES = 3


def plain(activation=nn.ReLU):
    """Two convolutions and two linear layers, without norms."""
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), activation(), nn.MaxPool2d(2), nn.Conv2d(5, 4, 2),
        activation(), nn.Flatten(), nn.Linear(4, 6), activation(), nn.Linear(6, CLASSES),
    )  # fmt: skip


def wide():
    """Three hidden layers with units enough for rounds to differ."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(),
        nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, CLASSES),
    )  # fmt: skip


class Normed(nn.Module):
    """Two convolutions, each with a BatchNorm behind it and no bias; the second in a residual."""

    def __init__(self, eps=1e-5):
        super().__init__()
        self.first = nn.Conv2d(2, 5, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(5, eps)
        self.inner = nn.Conv2d(5, 7, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(7, eps)
        self.outer = nn.Conv2d(7, 5, 1)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x):
        x = self.norm1(self.first(x)).relu()
        x = x + self.outer(self.norm2(self.inner(x)).relu())
        return self.head(x.mean((2, 3)))


def jitter_norms(model):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                    tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return model


def data(n=48, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 2, 4, 4, generator=generator, dtype=dtype)
    y = torch.arange(n) % CLASSES
    return read_batches([(x[:20], y[:20]), (x[20:], y[20:])])


@contextmanager
def unchecked():
    """As for a user, who has no type checks at run time."""
    disabled = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", disabled)


def everything(batches):
    """All examples as one pair."""
    return (
        torch.cat([batch.args[0] for batch in batches]),
        torch.cat([batch.target for batch in batches]),
    )


def question(model, batches=None, keep=None, **others):
    """About a masked copy of the model, as the loop over rounds would ask."""
    batches = batches or data(dtype=next(model.parameters()).dtype)
    traced = graph.trace(model, (batches[0].args[0][:4],))
    masked = surgery.mask_model(model, traced, keep or {})
    asked = Question(masked, traced, batches, keep=keep or {}, **others)
    return workable(Question(masked, traced, batches, keep=keep or {},
                             live=live_entries(asked, masked), **others))  # fmt: skip


def some(traced, share=0.6):
    """A mask for each group that keeps about that share, never the first unit."""
    generator = np.random.default_rng(7)
    keep = {}
    for group in traced.groups:
        units = generator.random(group.n_units) < share
        units[0], units[1] = False, True
        keep[group.index] = units
    return keep
