"""Layers that are written as products are planned, masked and refitted as linear layers are."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mipp


class Linear(nn.Module):
    """Two layers over the features of maps (batch, features, length)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(8, 12, bias=False), nn.Linear(12, 4, bias=False)

    def forward(self, x):
        return F.linear(F.relu(F.linear(x.mT, self.a.weight)), self.b.weight).mT


class Left(Linear):
    def forward(self, x):
        return self.b.weight @ F.relu(self.a.weight @ x)


class Expanded(Linear):
    def forward(self, x):
        a, b = (layer.weight.expand(len(x), -1, -1) for layer in (self.a, self.b))
        return torch.bmm(b, F.relu(torch.bmm(a, x)))


class Einsum(Linear):
    def forward(self, x):
        hidden = torch.einsum("oi,bil->lob", self.a.weight, x)
        return torch.einsum("lib,oi->bol", F.relu(hidden), self.b.weight)


X = torch.randn(64, 8, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", [Left, Expanded])
@pytest.mark.parametrize("noise", ["fisher", 0.1])
def test_units_and_refit_are_those_of_linear_layers(kind, noise):
    plans = [
        mipp.plan(net().eval(), [X], budget="units=50%", noise=noise) for net in (Linear, kind)
    ]
    assert plans[0].keep == plans[1].keep
    assert plans[0].before == plans[1].before
    nats = [plan.summary[0].nats_after for plan in plans]
    assert nats[0] == pytest.approx(nats[1], rel=1e-5)
    fitted = [plan.apply() for plan in plans]
    torch.testing.assert_close(fitted[0](X), fitted[1](X), rtol=1e-4, atol=1e-5)
    unfitted = plans[1].apply(refit=False)
    torch.testing.assert_close(plans[1].mask()(X), unfitted(X))
    full = kind()(X)
    assert (fitted[1](X) - full).norm() < (unfitted(X) - full).norm()


def test_an_einsum_in_an_order_of_its_own_is_pruned_too():
    plan = mipp.plan(Einsum().eval(), [X], budget="units=50%", noise=0.1)
    assert plan.keep == mipp.plan(Linear().eval(), [X], budget="units=50%", noise=0.1).keep
    torch.testing.assert_close(plan.mask()(X), plan.apply(refit=False)(X))


@pytest.mark.parametrize("kind", [Left, Expanded, Einsum])
def test_single_weights_are_those_of_linear_layers(kind):
    plans = [
        mipp.plan(net().eval(), [X], budget="params=50%", noise=0.1, granularity="weight")
        for net in (Linear, kind)
    ]
    assert plans[1].refused == ()
    small = [plan.apply() for plan in plans]
    for left, right in zip(*(model.parameters() for model in small), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)
