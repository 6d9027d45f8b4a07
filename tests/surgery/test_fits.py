"""Refits of a part of the weights: a factor for each channel, or the bias alone."""

import pytest
import torch
from torch import nn

import mipp
from mipp import graph, surgery
from mipp.methods.thinet import scales
from mipp.surgery import Refit


def refitted(model, x, keep, config):
    """``model`` with the first group cut down to the units ``keep``."""
    traced = graph.trace(model, (x[:4],))
    masks = {
        group.index: torch.isin(torch.arange(group.n_units), torch.tensor(keep)).numpy()
        for group in traced.groups
        if group.name == "0"
    }
    kept = surgery.kept_indices(traced, masks)
    small = surgery.slice_model(model, kept)
    surgery.refit(small, model, traced, kept, [((x,), {})], ((x,), {}), config)
    return small.requires_grad_(False)


def linear(bias=True):
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3, bias=bias)).double()


def convolutional():
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 4, 3, stride=2, padding=1)
    ).double()


def flattened():
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(80, 3)
    ).double()


def transposed():
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(5, 3, 2, stride=2)
    ).double()


MODELS = {"linear": linear, "conv": convolutional, "flatten": flattened, "transpose": transposed}
LAST = {"linear": 2, "conv": 2, "flatten": 3, "transpose": 2}


def inputs(name):
    generator = torch.Generator().manual_seed(0)
    shape = (200, 4) if name == "linear" else (30, 2, 4, 4)
    return torch.randn(shape, generator=generator).double()


@pytest.mark.parametrize("name", MODELS)
def test_factors_are_in_between_nothing_and_all_weights(name):
    model, x, keep = MODELS[name](), inputs(name), [0, 2, 3]
    exact = {"ridge": 1e-10, "rows_per_feature": 1e9}

    def error(small):
        return float((small(x) - model(x).detach()).square().mean())

    plain = refitted(model, x, keep, Refit(ridge=1e12, fits="scale"))
    scale = refitted(model, x, keep, Refit(fits="scale", **exact))
    free = refitted(model, x, keep, Refit(fits="weights", **exact))
    assert error(free) < error(scale) < error(plain)
    # each channel's weights are a multiple of what they were
    old, new = (m[LAST[name]].weight.detach() for m in (plain, scale))
    dim = 0 if name == "transpose" else 1
    channels = old.movedim(dim, 0).reshape(3, -1), new.movedim(dim, 0).reshape(3, -1)
    factors = (channels[0] * channels[1]).sum(1) / channels[0].square().sum(1)
    torch.testing.assert_close(channels[1], channels[0] * factors.unsqueeze(1), rtol=1e-8, atol=0)
    assert (factors - 1).abs().max() > 1e-3
    if model[LAST[name]].bias is not None:
        assert torch.equal(scale[LAST[name]].bias, model[LAST[name]].bias)


def test_the_factors_are_thinets_least_squares_over_all_its_instances():
    model, x, keep = linear(), inputs("linear"), [0, 2, 3]
    small = refitted(model, x, keep, Refit(fits="scale", ridge=1e-12, rows_per_feature=1e9))
    hidden = model[:2](x).detach()
    weight = model[2].weight.detach()
    gram = (hidden.T @ hidden * (weight.T @ weight)).numpy()
    kept = torch.isin(torch.arange(6), torch.tensor(keep)).numpy()
    expected = torch.from_numpy(scales(gram, kept, ridge=1e-12))[keep]
    torch.testing.assert_close(small[2].weight, weight[:, keep] * expected, rtol=1e-6, atol=1e-9)


class Beside(nn.Module):
    """Channels that can go, next to two of the input that cannot."""

    def __init__(self):
        super().__init__()
        self.hidden, self.last = nn.Linear(4, 6), nn.Linear(8, 3)

    def taken_in(self, x):
        return torch.cat([x[:, :2], self.hidden(x).relu()], 1)

    def forward(self, x):
        return self.last(self.taken_in(x))


def test_inputs_that_always_stay_have_factors_of_their_own():
    model, x, keep = Beside().double(), inputs("linear"), [0, 2, 3]
    plan = mipp.plan(model, [x], widths={"hidden": 3}, method="l1", refit=False)
    keep = [0, 1, *(2 + unit for unit in plan.keep["hidden"])]
    small = plan.apply(refit=Refit(fits="scale", ridge=1e-12, rows_per_feature=1e9))
    taken, weight = model.taken_in(x).detach(), model.last.weight.detach()
    gram = (taken.T @ taken * (weight.T @ weight)).numpy()
    kept = torch.isin(torch.arange(8), torch.tensor(keep)).numpy()
    factors = torch.from_numpy(scales(gram, kept, ridge=1e-12))[keep]
    expected = weight[:, keep] * factors
    torch.testing.assert_close(small.last.weight.detach(), expected, rtol=1e-5, atol=1e-8)


def test_a_pull_towards_zero_makes_factors_small_and_one_towards_the_old_leaves_them_at_one():
    model, x, keep = linear(), inputs("linear"), [0, 2, 3]
    old = refitted(model, x, keep, Refit(fits="scale", ridge=1e9))
    zero = refitted(model, x, keep, Refit(fits="scale", ridge=1e9, toward="zero"))
    torch.testing.assert_close(old[2].weight, model[2].weight[:, keep].detach())
    assert zero[2].weight.abs().max() < 1e-6


@pytest.mark.parametrize("name", ["linear", "conv", "flatten"])
def test_a_bias_alone_keeps_the_mean_of_every_output_and_no_weight_changes(name):
    model, x, keep = MODELS[name](), inputs(name), [0, 2, 3]
    last = LAST[name]
    small = refitted(model, x, keep, Refit(fits="bias", rows_per_feature=1e9))
    dims = (0, 2, 3) if name == "conv" else (0,)
    torch.testing.assert_close(small(x).mean(dims), model(x).mean(dims))
    plain = refitted(model, x, keep, Refit(fits="scale", ridge=1e12))
    torch.testing.assert_close(small[last].weight, plain[last].weight)
    assert (plain(x).mean(dims) - model(x).mean(dims)).abs().max() > 1e-3


def test_without_a_bias_there_is_nothing_to_fit():
    model, x = linear(bias=False), inputs("linear")
    small = refitted(model, x, [0, 2, 3], Refit(fits="bias"))
    assert torch.equal(small[2].weight, model[2].weight[:, [0, 2, 3]])


def test_a_batchnorm_behind_takes_up_the_mean_in_place_of_a_bias():
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 4, 1, bias=False), nn.BatchNorm2d(4)
    ).double().eval()  # fmt: skip
    x = inputs("conv")
    small = refitted(model, x, [0, 2, 3], Refit(fits="bias", rows_per_feature=1e9))
    torch.testing.assert_close(small(x).mean((0, 2, 3)), model(x).mean((0, 2, 3)))


def test_the_methods_own_update_is_asked_for_by_name():
    model, x = linear().float(), inputs("linear").float()
    own = {
        name: mipp.plan(model, [x], "units=50%", method=name, refit="own").refit
        for name in ("l1", "flap", "thinet", "obs", "mipp")
    }
    assert own == {
        "l1": None,
        "flap": Refit(fits="bias"),
        "thinet": Refit(fits="scale"),
        "obs": Refit(),
        "mipp": Refit(),
    }
    plan = mipp.plan(model, [x], "units=50%", method="thinet", refit="own")
    read = mipp.Plan.from_json(plan.to_json(), model, [x])
    assert read.refit == plan.refit
    torch.testing.assert_close(read.apply()(x), plan.apply()(x))


def test_what_is_not_known_to_fit_is_an_error():
    with pytest.raises(mipp.InputError, match="fits='gate'; expected one of 'weights', 'scale'"):
        Refit(fits="gate")
