"""Norms right behind a fitted layer follow from its fit, and as well as from all inputs."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from mipp import graph
from mipp.surgery import Piece, Refit, kept_indices, refit, slice_model
from mipp.surgery.refit.norms import DirectNorms
from mipp.tracing.lockstep import visit_in_order

ALL_ROWS = Refit(rows_per_feature=1e9)


class Net(nn.Module):
    """Convolutions with norms, and something in between for the second."""

    def __init__(self, between, bias=False, groups=1):
        super().__init__()
        self.between = between
        self.first, self.norm1 = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=bias)
        self.norm2 = nn.BatchNorm2d(8)
        self.conv3 = nn.Conv2d(8, 8, 3, padding=1, groups=groups, bias=bias)
        self.norm3 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.norm1(self.first(x)).relu()
        x = self.norm2(self.between(self.conv2(x))).relu()
        x = self.norm3(self.conv3(x)).relu()
        return self.head(x.mean((2, 3)))


def small_of(model, x):
    """Without a quarter of the units of each group, and the indices that stay."""
    traced = graph.trace(model, (x[:2],))
    keep = {g.index: np.arange(g.n_units) >= g.n_units // 4 for g in traced.groups}
    kept = kept_indices(traced, keep)
    return slice_model(model, kept, traced.aliases), traced, kept


def refitted(model, x, monkeypatch, *, direct=True, **options):
    """The state of the small net after a refit, and at which norms batches waited."""
    walk = sys.modules["mipp.surgery.refit.walk"]
    if not direct:
        monkeypatch.setattr(walk, "direct_norms", lambda *_: DirectNorms((), ()))
        monkeypatch.setattr(DirectNorms, "unchanged", lambda *_: False)
    waited = set()

    def visiting(runs, order, visit, *args):
        def seen(place, there):
            waited.update({place} if isinstance(place, int) else ())
            visit(place, there)

        visit_in_order(runs, order, seen, *args)

    monkeypatch.setattr(walk, "visit_in_order", visiting)
    small, traced, kept = small_of(model, x)
    batches = [Piece(((part,), {}), number, len(part)) for number, part in enumerate(x.split(20))]
    refit(small, model, traced, kept, batches, options.pop("config", ALL_ROWS), **options)
    monkeypatch.undo()
    return small.state_dict(), waited


def made(between=None, **options):
    torch.manual_seed(0)
    model = Net(between or nn.Identity(), **options)
    for _ in range(20):  # norms that have seen something
        model.train()(torch.randn(32, 2, 6, 6) + 0.5)
    return model.eval(), torch.randn(60, 2, 6, 6) + 0.5


@pytest.mark.parametrize("memory", [1e12, 1.0], ids=["all wait", "run again"])
@pytest.mark.parametrize(
    ("net", "waits_at"),
    [
        ({}, set()),
        ({"bias": True}, set()),
        ({"between": nn.ReLU()}, {1}),
        ({"between": nn.ReLU(inplace=True)}, {1}),
        ({"between": nn.MaxPool2d(2)}, {1}),
    ],
    ids=["directly", "with a bias", "relu between", "relu in place", "pooled"],
)
def test_norms_follow_as_from_all_inputs(net, waits_at, memory, monkeypatch):
    model, x = made(**net)
    direct, waited = refitted(model, x, monkeypatch, memory=memory)
    plain, everywhere = refitted(model, x, monkeypatch, memory=memory, direct=False)
    assert waited == waits_at
    assert everywhere == {0, 1, 2}
    moved = plain["norm2.running_mean"] - model.norm2.running_mean[2:]
    if not net.get("bias"):
        assert float(moved.abs().max()) > 0.01
    for name, value in plain.items():
        torch.testing.assert_close(direct[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_a_grouped_convolution_is_waited_behind(monkeypatch):
    model, x = made(groups=8)
    direct, waited = refitted(model, x, monkeypatch)
    plain, _ = refitted(model, x, monkeypatch, direct=False)
    assert waited == {2}  # it is not fitted
    for name, value in plain.items():
        torch.testing.assert_close(direct[name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    "config", [Refit(mode="norm"), Refit(mode="closed"), Refit(norm="full")], ids=str
)
def test_what_does_not_follow_from_a_fit_waits(config, monkeypatch):
    model, x = made()
    direct, waited = refitted(model, x, monkeypatch, config=config)
    plain, _ = refitted(model, x, monkeypatch, config=config, direct=False)
    assert waited == {1, 2}  # the first norm takes in what it took in before
    for name, value in plain.items():
        torch.testing.assert_close(direct[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_statistics_that_are_kept_hold_nobody_up(monkeypatch):
    model, x = made()
    state, waited = refitted(model, x, monkeypatch, config=Refit(norm="keep"))
    torch.testing.assert_close(state["norm2.running_mean"], model.norm2.running_mean[2:])
    torch.testing.assert_close(state["norm2.running_var"], model.norm2.running_var[2:])
    assert waited == set()
