"""Norms right behind a fitted layer follow from its fit, and as well as from all inputs."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

import mipp
from mipp import graph
from mipp.surgery import Piece, Refit, kept_indices, refit, slice_model
from mipp.surgery.refit.norms import DirectNorms
from mipp.tracing.lockstep import visit_in_order

ALL_ROWS = Refit(rows_per_feature=1e9)


class Net(nn.Module):
    """Convolutions with norms, and something in between for the second."""

    def __init__(self, between, bias=False, groups=1, first=1, transposed=False, twice=False):
        super().__init__()
        self.between, self.twice = between, twice
        self.first = nn.Conv2d(2, 8, 3, padding=1, groups=first)
        self.norm1 = nn.BatchNorm2d(8)
        kind = nn.ConvTranspose2d if transposed else nn.Conv2d
        self.conv2 = kind(8, 8, 3, padding=1, bias=bias)
        self.norm2 = nn.BatchNorm2d(8)
        self.conv3 = nn.Conv2d(8, 8, 3, padding=1, groups=groups, bias=bias)
        self.norm3 = self.norm2 if twice else nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.norm1(self.first(x)).relu()
        x = self.norm2(self.between(self.conv2(x))).relu()
        x = self.norm3(self.conv3(x)).relu()
        return self.head(x.mean((2, 3)))


class Rows(nn.Module):
    """Linear layers, the second on the last of two or three dimensions, and norms behind them."""

    def __init__(self, channels=None):
        super().__init__()
        self.channels = channels
        self.first, self.norm1 = nn.Linear(6, 8), nn.BatchNorm1d(channels or 8)
        self.second, self.norm2 = nn.Linear(8, 8, bias=False), nn.BatchNorm1d(channels or 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.norm1(self.first(x)).relu()
        return self.head(self.norm2(self.second(x)).relu())


class BehindNorms(nn.Module):
    """Channels that a LayerNorm mixes pass through a depthwise convolution, and then a norm."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Parameter(torch.randn(30, 8))
        self.layer_norm = nn.LayerNorm(8)
        self.depthwise = nn.Conv1d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.BatchNorm1d(8)
        self.inner = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, ids):
        x = nn.functional.embedding(ids, self.embed)
        x = self.norm(self.depthwise(self.layer_norm(x).mT)).mT
        x = x + self.inner(x)
        return self.head(x.mean(1))


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
        ({"transposed": True}, {1}),
        ({"first": 2}, {0}),
        ({"twice": True}, set()),
    ],
    ids=[
        "directly",
        "with a bias",
        "relu between",
        "relu in place",
        "pooled",
        "transposed",
        "grouped at first",
        "one norm twice",
    ],
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
    ("config", "waits_at"),
    [
        (Refit(mode="norm"), {1, 2}),
        (Refit(mode="closed"), {1, 2}),
        (Refit(norm="full"), {1, 2}),
        (Refit(norm="keep"), {1, 2}),
        (Refit(fits="scale", rows_per_feature=1e9), set()),
        (Refit(fits="bias"), {1, 2}),  # there is none
        (Refit(min_rows=300, rows_per_feature=1.0, few_rows=100.0), set()),
    ],
    ids=["norms alone", "closed", "full", "keep", "scale", "bias", "few rows"],
)
def test_the_way_of_the_fit_says_what_follows_from_it(config, waits_at, monkeypatch):
    model, x = made()
    direct, waited = refitted(model, x, monkeypatch, config=config)
    plain, _ = refitted(model, x, monkeypatch, config=config, direct=False)
    assert waited == waits_at  # the first norm takes in what it took in before
    # from few rows the mean differs by what they miss
    close = 0.2 if config.min_rows == 300 else 1e-4
    for name, value in plain.items():
        torch.testing.assert_close(direct[name], value, rtol=close, atol=close, msg=name)


@pytest.mark.parametrize("norm", ["mean", "full", "keep"])
def test_little_memory_fits_the_same_however_norms_follow(norm, monkeypatch):
    model, x = made()
    config = Refit(norm=norm, rows_per_feature=1e9)
    ample, _ = refitted(model, x, monkeypatch, config=config)
    for memory in (1.0, 2e4, 2e5):
        little, _ = refitted(model, x, monkeypatch, config=config, memory=memory)
        for name, value in ample.items():
            torch.testing.assert_close(little[name], value, rtol=1e-4, atol=1e-5, msg=name)
    kept = torch.equal(ample["norm2.running_mean"], model.norm2.running_mean[2:])
    assert kept == (norm == "keep")


@pytest.mark.parametrize("channels", [None, 8], ids=["two dimensions", "three"])
def test_features_of_a_linear_layer_are_the_norms_channels_only_in_two_dimensions(
    channels, monkeypatch
):
    torch.manual_seed(0)
    model = Rows(channels).eval()
    x = torch.randn(60, *([] if channels is None else [channels]), 6)
    for norm in (model.norm1, model.norm2):
        torch.nn.init.uniform_(norm.running_mean)
    direct, waited = refitted(model, x, monkeypatch)
    plain, everywhere = refitted(model, x, monkeypatch, direct=False)
    assert (waited, everywhere) == (set() if channels is None else {0, 1}, {0, 1})
    for name, value in plain.items():
        torch.testing.assert_close(direct[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_a_first_layer_may_read_what_lost_features_on_the_way(monkeypatch):
    torch.manual_seed(0)
    model, ids = BehindNorms().eval(), torch.randint(0, 30, (64, 10))
    options = {"budget": "units=60%", "residual": True, "seed": 0, "progress": False}
    plan = mipp.plan(model, [ids[:32], ids[32:]], method="l2", **options)
    assert plan.widths["embed"][1] < 8
    small = plan.apply(progress=False)
    monkeypatch.setattr(sys.modules["mipp.surgery.refit.walk"], "direct_norms", lambda *_: None)
    plain = plan.apply(progress=False)
    moved = small.norm.running_mean - model.norm.running_mean[list(plan.keep["embed"])]
    assert float(moved.abs().max()) > 1e-3
    torch.testing.assert_close(small.norm.running_mean, plain.norm.running_mean)
