"""What never varies carries no information, and the scale of a layer plays no part in any of it."""

import numpy as np
import pytest
import torch
from torch import nn

import mipp
from mipp import information, methods
from mipp.covariance import varies
from mipp.information import ConsumerView, Gaussian, Observations

SCALES = [2.0**-26, 2.0**-10, 1.0, 2.0**14]


def half_dead(scale=1.0, constant=0.0):
    """An MLP whose even units give a constant whatever comes in; undone behind it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    with torch.no_grad():
        net[0].weight[::2] = 0
        net[0].bias[::2] = constant or -1.0
        net[0].weight *= scale
        net[0].bias *= scale
        net[2].weight /= scale
    return net


def data(n=512):
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(1))


ALIVE = list(range(1, 16, 2))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("noise", ["fisher", 0.1])
@pytest.mark.parametrize("constant", [0.0, 0.7])
def test_units_that_never_vary_go_first_at_any_scale(scale, noise, constant):
    plan = mipp.plan(half_dead(scale, constant), [data()], budget="units=8", noise=noise)
    assert list(plan.keep["0"]) == ALIVE


@pytest.mark.parametrize("noise", ["fisher", 0.1])
@pytest.mark.parametrize("budget", ["units=12", "units=5"])
def test_scaling_a_layer_and_undoing_it_changes_neither_plan_nor_nats(noise, budget):
    plans = [mipp.plan(half_dead(s), [data()], budget=budget, noise=noise) for s in SCALES]
    assert len({plan.keep["0"] for plan in plans}) == 1
    nats = [[plan.summary[0].nats_before, plan.summary[0].nats_after] for plan in plans]
    np.testing.assert_allclose(nats, nats[:1] * len(nats), rtol=1e-5)


@pytest.mark.parametrize("name", information.names())
@pytest.mark.parametrize("scale", [2.0**-26, 1.0])
def test_every_estimator_lets_them_go_first(name, scale):
    small = {"epochs": 20, "hidden": (16,), "noise": 0.1}
    estimator = {
        "gaussian": mipp.Gaussian(noise=0.1),
        "masked": mipp.Masked(**small),
        "mlp": mipp.Mlp(**small, retrain_epochs=5),
    }[name]
    plan = mipp.plan(half_dead(scale), [data()], budget="units=8", estimator=estimator)
    assert list(plan.keep["0"]) == ALIVE


@pytest.mark.parametrize("scale", [2.0**-26, 1.0])
def test_every_fold_of_the_rows_lets_them_go_first(scale):
    plan = mipp.plan(half_dead(scale), [data()], confidence=0.9, noise=0.1)
    assert set(plan.keep["0"]) <= set(ALIVE)


@pytest.mark.parametrize("method", ["obs", "flap", "thinet"])
@pytest.mark.parametrize("scale", [2.0**-26, 1.0, 2.0**14])
def test_rival_methods_with_covariances_let_them_go_first(method, scale):
    plan = mipp.plan(half_dead(scale), [data()], budget="units=8", method=method)
    assert list(plan.keep["0"]) == ALIVE


def test_obs_counts_nothing_for_what_is_always_zero_however_large_its_weight():
    net = half_dead()
    with torch.no_grad():
        net[2].weight[:, ::2] = 100.0
    plan = mipp.plan(net, [data()], budget="units=8", method=methods.OBS(damping=0.1))
    assert list(plan.keep["0"]) == ALIVE


@pytest.mark.parametrize("noise", ["fisher", 0.1])
@pytest.mark.parametrize("scale", [2.0**-26, 1.0])
def test_single_weights_that_read_what_never_varies_go_first(noise, scale):
    plan = mipp.plan(
        half_dead(scale), [data()], budget="params=60%", granularity="weight", noise=noise
    )
    weight = plan.apply()[2].weight
    assert int((weight[:, ::2] != 0).sum()) == 0
    assert int((weight[:, 1::2] != 0).sum()) > 0


@pytest.mark.parametrize("mode", ["sequential", "closed"])
@pytest.mark.parametrize("constant", [0.0, 0.7])
def test_the_refit_leaves_weights_that_read_a_constant_as_they_are(mode, constant):
    net = half_dead(2.0**-10, constant)
    keep = mipp.plan(net, [data()], widths={"0": 12}, method="random", seed=3)
    small = keep.apply(mode)
    dead = [place for place, unit in enumerate(keep.keep["0"]) if unit % 2 == 0]
    units = [keep.keep["0"][place] for place in dead]
    assert dead
    torch.testing.assert_close(small[2].weight[:, dead], net[2].weight[:, units])


def test_an_output_whose_parts_cancel_is_not_blown_up():
    """Its variance is rounding: a share of it would be noise of nothing."""
    x = torch.randn(300, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    both = torch.cat([x, x], 1)
    covariance = both.T @ both / 300
    weight = torch.tensor([[1.0, -1.0 - 1e-9]], dtype=torch.float64)
    view = ConsumerView(covariance, weight, None, torch.tensor([0, 1]), 1)
    assert Gaussian(noise=0.1).scorer([view], 2).total()[0] == 0


def test_observed_columns_that_never_vary_tell_nothing():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=generator)
    y = x[:, :1] + 0.1 * torch.randn(200, 1, generator=generator)
    x[:, 1] = 0.1  # no number that is exact in binary
    scorer = Gaussian().scorer([Observations(x, y, torch.arange(3))], 3)
    assert scorer.solo()[1] == 0
    assert scorer.scores()[1] == 0
    np.testing.assert_allclose(scorer.estimates(1), 0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_told_from_variance(dtype):
    constant = torch.full((1000,), 0.1, dtype=dtype) * torch.tensor([1, 1e6, 1e-20]).view(3, 1)
    values = constant.T.to(dtype)
    mean = values.mean(0).double()
    assert not varies((values - mean).square().mean(0), mean, dtype).any()
    values = values * (1 + 1e-4 * torch.randn(1000, 1, generator=torch.Generator().manual_seed(0)))
    mean = values.mean(0).double()
    assert varies((values - mean).square().mean(0), mean, dtype).all()
