"""Refits of a part of the weights: a factor for each channel, or the bias alone."""

import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

import mipp
from mipp import errors, graph, surgery
from mipp.methods.thinet import scales
from mipp.surgery import Refit
from mipp.surgery.refit import fitting
from mipp.surgery.refit.fitting import chosen_strength
from mipp.surgery.refit.ridge import Regression, Ridge


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
    surgery.refit(small, model, traced, kept, [surgery.Piece(((x,), {}), 0, len(x))], config)
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
    exact = {"ridge": 1e-10, "rows_per_feature": 1e9, "few_rows": 0.0}

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
    with pytest.raises(errors.InputError, match="fits='gate'; expected one of 'weights', 'scale'"):
        Refit(fits="gate")


def test_examples_are_counted_through_batches_of_different_sizes(monkeypatch):
    seen = []

    def spy(fitted, ridge, example, few_rows):
        seen.append(example)
        return chosen_strength(fitted, ridge, example, few_rows)

    module = sys.modules["mipp.surgery.refit.fitting"]
    monkeypatch.setattr(module, "chosen_strength", spy)
    net = nn.Sequential(nn.Linear(20, 100), nn.ReLU(), nn.Linear(100, 10))
    mipp.plan(net, [torch.randn(n, 20) for n in (8, 8, 3)], "units=50%", noise=0.1).apply()
    assert [example.tolist() for example in seen] == [list(range(19))]


def regression(n, d=12, m=3, bias=True, toward="old", seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator).double() + 0.5
    old = torch.randn(m, d, generator=generator).double()
    y = x @ (old + 0.3 * torch.randn(m, d, generator=generator)).T + 1.0
    own = torch.randn(m, generator=generator).double() if bias else None
    return Regression(x, y, old, own, toward, centred=bias)


@pytest.mark.parametrize("toward", ["old", "zero"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("strength", [1e-6, 0.1, 30.0])
def test_row_space_and_feature_space_have_one_solution(toward, bias, strength):
    """Ten rows of twelve features; beside them two more rows of zeros' worth: all rows twice."""
    few = regression(10, bias=bias, toward=toward)
    twice = Regression(
        few.x.repeat(2, 1), few.y.repeat(2, 1), few.old, few.bias, toward, centred=bias
    )
    a, b = Ridge(few), Ridge(twice)
    assert a.in_rows
    assert not b.in_rows
    torch.testing.assert_close(a.solution(strength), b.solution(strength), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("toward", ["old", "zero"])
def test_the_ridge_solution_is_that_of_the_augmented_least_squares_problem(toward):
    problem, strength = regression(10, bias=False, toward=toward), 0.3
    pull = problem.x.square().mean(0)
    anchor = problem.old if toward == "old" else torch.zeros_like(problem.old)
    penalty = (strength * (pull + 0.1 * pull.median() + 1e-8 * pull.mean())).sqrt()
    left = torch.cat([problem.x / 10**0.5, penalty.diag()])
    right = torch.cat([problem.y / 10**0.5, penalty.unsqueeze(1) * anchor.T])
    expected = torch.linalg.lstsq(left, right).solution.T
    torch.testing.assert_close(Ridge(problem).solution(strength), expected)


def test_held_out_rows_choose_a_weak_ridge_for_what_can_be_fitted_and_none_for_noise():
    x = torch.randn(60, 20, generator=torch.Generator().manual_seed(0)).double()
    old, change = torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(1)).double()
    noise = torch.randn(60, 3, generator=torch.Generator().manual_seed(2)).double()
    example = torch.arange(60)

    def chosen(y):
        problem = Regression(x, y, old, torch.zeros(3).double(), "old", centred=True)
        return chosen_strength(Ridge(problem), 1e-3, example)

    assert chosen(x @ (old + change).T + 0.01 * noise) == 1e-3
    assert chosen(x @ old.T + 5 * noise) is None
    between = chosen(x @ (old + 0.3 * change).T + 2 * noise)
    assert between is not None
    assert between > 1e-3


def test_rows_of_one_example_are_held_out_together():
    """Twenty rows each of four examples: what holds within an example does not hold beyond it."""
    generator = torch.Generator().manual_seed(0)
    example = torch.arange(4).repeat_interleave(20)
    x = torch.randn(4, 30, generator=generator).double()[example]
    x = x + 1e-3 * torch.randn(80, 30, generator=generator).double()
    y = torch.randn(4, 2, generator=generator).double()[example]
    old = torch.zeros(2, 30).double()
    problem = Regression(x, y, old, torch.zeros(2).double(), "old", centred=True)
    assert chosen_strength(Ridge(problem), 1e-3, example) is None
    assert chosen_strength(Ridge(problem), 1e-3, torch.arange(80)) is not None


@pytest.mark.parametrize("n", [2, 4, 8, 16])
def test_a_refit_on_few_examples_does_no_more_harm_than_none(n):
    worst = 0.0
    for seed in range(3):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
        ).eval()
        plan = mipp.plan(net, [torch.randn(n, 64)], budget="macs=25%")
        x = torch.randn(512, 64)
        with torch.no_grad():
            whole, bare, fitted = net(x), plan.apply(refit=False)(x), plan.apply()(x)
        worst = max(worst, float((fitted - whole).norm() / (bare - whole).norm()))
    assert worst <= 1.05


def test_a_layer_with_hardly_a_row_stays_as_it_is():
    model, x = linear(), inputs("linear")[:7]
    small = refitted(model, x, [0, 2, 3], Refit())
    torch.testing.assert_close(small[2].weight, model[2].weight[:, [0, 2, 3]])
    torch.testing.assert_close(small[2].bias, model[2].bias)


@pytest.mark.parametrize("n", [20, 9])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("toward", ["old", "zero"])
def test_gains_are_those_of_fits_to_the_other_rows(n, bias, toward):
    problem, fold = regression(n, bias=bias, toward=toward), torch.arange(n) % 3
    found = Ridge(problem).gains([0.01, 1.0], fold)
    for number in range(3):
        own = fold == number
        others = Regression(
            problem.x[~own], problem.y[~own], problem.old, problem.bias, toward, centred=bias
        )
        bare = problem.y[own] - problem.x[own] @ problem.old.T
        bare = (bare - problem.bias if bias else bare).square().sum(1)
        for place, strength in enumerate([0.01, 1.0]):
            fitted = Ridge(others)
            # features are weighed by their variance over all rows
            fitted._pull = Ridge(problem)._pull
            weight = fitted.solution(strength)
            x, y = problem.x[own] - fitted.x_mean, problem.y[own] - fitted.y_mean
            left = (y - x @ weight.T).square().sum(1)
            torch.testing.assert_close(found[place, own], bare - left, rtol=1e-6, atol=1e-8)


def test_very_many_outputs_are_judged_by_mixtures_of_them():
    problem, fold = regression(60, d=20, m=900), torch.arange(60) % 4
    noise = torch.randn(60, 900, generator=torch.Generator().manual_seed(4)).double()
    problem = replace(problem, y=problem.y + 3 * noise)
    found = Ridge(problem).gains([0.01, 1.0, 30.0], fold)
    parts = [
        replace(problem, y=problem.y[:, some], old=problem.old[some], bias=problem.bias[some])
        for some in torch.arange(900).split(100)
    ]
    exact = sum(Ridge(part).gains([0.01, 1.0, 30.0], fold) for part in parts)
    torch.testing.assert_close(found.sum(1), exact.sum(1), rtol=0.1, atol=0)
    assert not torch.equal(found, exact)
    # what is fitted in the end has all outputs
    whole, part = Ridge(problem), Ridge(parts[3])
    whole.gains([0.01], fold)
    torch.testing.assert_close(whole.solution(0.01)[300:400], part.solution(0.01))


@pytest.mark.parametrize(("n_examples", "judged"), [(15, 15), (16, 4), (40, 10)])
def test_of_wide_layers_one_part_in_four_of_enough_examples_is_held_out(
    n_examples, judged, monkeypatch
):
    monkeypatch.setattr(fitting, "WIDE", 8)
    problem, seen = regression(4 * n_examples, d=12), []
    fitted = Ridge(problem)
    gains = fitted.gains
    monkeypatch.setattr(fitted, "gains", lambda s, fold: seen.append(fold) or gains(s, fold))
    chosen_strength(fitted, 1e-3, torch.arange(n_examples).repeat_interleave(4))
    assert len(seen[0].view(-1, 4)[seen[0].view(-1, 4)[:, 0] >= 0]) == judged
    assert (int(seen[0].max()) == 0) == (judged < n_examples)


@pytest.mark.parametrize("n", [200, 30])
def test_a_feature_that_barely_occurs_does_not_get_a_huge_weight(n):
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 3)).double()
    x = torch.randn(n, 4).double()
    with torch.no_grad():
        reached = x @ model[0].weight[1] + model[0].bias[1]
        model[0].bias[1] += 1e-4 - reached.max()  # one row has 0.0001 of it, all others none
    small = refitted(model, x, range(18), Refit(few_rows=0.0))
    change = small[2].weight[:, 1] - model[2].weight[:, 1]
    assert change.abs().max() < 0.1
    others = torch.randn(500, 4).double() * 2  # of which many have more
    with torch.no_grad():
        error = (small(others) - model(others)).square().mean()
        assert error < model(others).var()
