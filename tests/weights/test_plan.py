"""Plans of single weights: what goes, what that loses, and what is left as it was."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import mipp
from mipp import errors, weights
from tests.weights.nets import Mixed, Tied, images, mlp, vectors

QUICK = {"noise": 0.1}


def weights_left(model, names):
    return sum(int((model.get_parameter(name) != 0).sum()) for name in names)


def test_a_plan_keeps_exactly_what_the_budget_allows_and_leaves_the_model_alone():
    model, batches = Mixed(), images()
    state = copy.deepcopy(model.state_dict())
    model.train()
    modes = [module.training for module in model.modules()]
    plan = mipp.plan(model, batches, "params=30%", granularity="weight")
    n_params = sum(p.numel() for p in model.parameters())
    assert plan.before.params == n_params
    assert plan.after.params == int(0.3 * n_params)
    for refit in (False, True):
        pruned = plan.apply(refit=refit)
        others = plan.before.params - plan.before.weights
        assert weights_left(pruned, plan.masks) + others == plan.after.params
        for name, mask in plan.masks.items():
            assert torch.equal(pruned.get_parameter(name) != 0, mask)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert "stem.weight" in str(plan)
    assert f"params: {plan.before.params:,} -> {plan.after.params:,}" in str(plan)


def test_smaller_budgets_lose_more_and_one_measurement_serves_all():
    model, batches = mlp(), vectors()
    budgets = ("params=70%", "params=40%", "params=20%")
    together = mipp.plans(model, batches, budgets, granularity="weight", **QUICK)
    lost = [sum(row.nats_before - row.nats_after for row in p.summary) for p in together]
    assert 0 < lost[0] < lost[1] < lost[2]
    alone = mipp.plan(model, batches, budgets[1], granularity="weight", **QUICK)
    assert alone.record.masks == together[1].record.masks


def test_the_nats_of_a_row_are_those_of_its_best_regression_on_the_data():
    model, (x,) = mlp(double=True), vectors(double=True)
    plan = mipp.plan(
        model, [x], "params=40%", granularity="weight", noise=0.2, ridge=1e-9, protect="2"
    )
    y = x @ model[0].weight.detach().T
    lost = 0.0
    for row, mask in enumerate(plan.masks["0.weight"]):
        read = torch.cat([x[:, mask], torch.ones(len(x), 1).double()], 1)
        left = y[:, row] - read @ torch.linalg.lstsq(read, y[:, row]).solution
        noise = 0.2 * y[:, row].var(correction=0)
        lost += 0.5 * float(torch.log1p(left.var(correction=0) / noise))
    (summary,) = plan.summary
    assert summary.nats_before - summary.nats_after == pytest.approx(lost, rel=1e-5)


def test_weights_of_zero_and_of_silent_inputs_cost_nothing_and_go_first():
    model = mlp()
    with torch.no_grad():
        model[0].weight[:, 3] = 0
    x = vectors()[0].clone()
    x[:, 7] = 1.5  # never varies: the bias can take it over
    plan = mipp.plan(model, [x], "params=95%", granularity="weight", **QUICK)
    assert not plan.masks["0.weight"][:, 3].any()
    least = mipp.plan(model, [x], "information=99.9999%", granularity="weight", **QUICK)
    assert not least.masks["0.weight"][:, [3, 7]].any()
    assert least.masks["0.weight"].sum() >= 12 * 12
    torch.testing.assert_close(least.apply()(x), model(x), rtol=1e-3, atol=1e-3)


def test_of_two_inputs_that_repeat_each_other_one_goes_for_nothing():
    model, x = mlp(), vectors()[0].clone()
    x[:, 5] = x[:, 4]
    plan = mipp.plan(model, [x], "information=99.99%", granularity="weight", **QUICK)
    pair = plan.masks["0.weight"][:, [4, 5]]
    assert (pair.sum(1) <= 1).all()
    assert pair.sum() >= 10
    torch.testing.assert_close(plan.apply()(x), model(x), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("most", [1e12, 0.0])
def test_so_it_is_in_wide_layers_whether_they_are_eliminated_exactly_or_not(monkeypatch, most):
    monkeypatch.setattr(weights.row_curves, "EXACT", most)
    torch.manual_seed(0)
    model = nn.Linear(96, 10).eval()
    x = torch.randn(2000, 96)
    x[:, 50:60] = -3 * x[:, :10]
    plan = mipp.plan(model, [x], "information=99.9%", granularity="weight", **QUICK)
    pairs = plan.masks["weight"][:, :10].int() + plan.masks["weight"][:, 50:60].int()
    assert (pairs <= 1).all()
    assert (pairs == 1).float().mean() > 0.7


def test_every_layer_keeps_the_share_of_information_that_is_asked_for():
    model, batches = mlp(), vectors()
    for share in (0.95, 0.8):
        plan = mipp.plan(model, batches, f"information={100 * share}%", granularity="weight",
                         **QUICK)  # fmt: skip
        for row in plan.summary:
            # the exact end of the elimination loses no more than the path that was priced
            assert row.nats_after >= share * row.nats_before * (1 - 1e-6)
            assert row.weights_after < row.weights_before


@pytest.mark.parametrize("method", ["mipp", "l2", "wanda", "sparsegpt", "snip"])
@pytest.mark.parametrize("granularity", ["2:4", "4:8"])
def test_a_pattern_holds_in_every_run_of_neighbouring_inputs(method, granularity):
    model, batches = Mixed(), images(128)
    labelled = [(x, torch.arange(len(x)) % 5) for x in batches]
    plan = mipp.plan(model, labelled, granularity=granularity, method=method, samples=128)
    most, run = (int(part) for part in granularity.split(":"))
    checked = 0
    for name, mask in plan.masks.items():
        # neighbours are input channels at one place of the kernel
        channels = mask.movedim(0 if name.startswith("up") else 1, -1)
        counts = channels.unflatten(-1, (-1, run)).sum(-1)
        assert (counts == most).all()
        checked += mask.numel()
    refused = sum(refusal.n_units for refusal in plan.refused)
    assert checked + refused == sum(p.numel() for p in model.parameters() if p.dim() > 1)
    assert any("no multiple of" in refusal.reason for refusal in plan.refused)
    assert plan.after.weights == checked // 2


def test_the_update_gives_back_more_of_the_function_than_zeros_alone():
    model, batches = Mixed().eval(), images(512)
    plan = mipp.plan(model, batches, "params=50%", granularity="weight", **QUICK)
    x = torch.cat(batches)
    off = [float((plan.apply(refit=how)(x) - model(x)).square().mean().detach())
           for how in (False, "closed", "sequential")]  # fmt: skip
    assert off[1] < 0.7 * off[0]
    assert off[2] < 0.7 * off[0]


def test_the_fitted_rows_of_the_first_layer_are_regressions_on_what_they_read():
    model, (x,) = mlp(double=True), vectors(double=True)
    plan = mipp.plan(model, [x], "params=50%", granularity="weight", protect="2", **QUICK)
    pruned = plan.apply(refit=mipp.Refit(ridge=1e-12))
    for row, mask in enumerate(plan.masks["0.weight"]):
        read = torch.cat([x[:, mask], torch.ones(len(x), 1).double()], 1)
        y = model[0](x)[:, row]
        expected = torch.linalg.lstsq(read, y).solution
        found = torch.cat([pruned[0].weight[row, mask], pruned[0].bias[row, None]])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_a_grouped_convolution_with_a_norm_behind_is_fitted_as_its_groups_are_alone():
    model, batches = Mixed().eval(), images(256)
    plan = mipp.plan(
        model, batches, "params=1220", granularity="weight",
        protect=["stem", "depthwise", "up", "head"], **QUICK,
    )  # fmt: skip
    pruned = plan.apply(refit=mipp.Refit(ridge=1e-9))
    x = model.stem(torch.cat(batches)).relu()
    patches = nn.functional.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1)
    made = model.grouped(x).movedim(1, -1).flatten(0, 2)
    for out in (0, 7):
        mine = patches[:, :36] if out < 6 else patches[:, 36:]
        mask = plan.masks["grouped.weight"][out].flatten()
        # the norm takes up the mean
        read, y = mine[:, mask], made[:, out]
        expected = torch.linalg.lstsq(read - read.mean(0), (y - y.mean())[:, None]).solution
        found = pruned.grouped.weight[out].flatten()[mask]
        torch.testing.assert_close(found, expected[:, 0], rtol=1e-2, atol=1e-3)
    before, after = model.grouped(x).mean((0, 2, 3)), pruned.grouped(x).mean((0, 2, 3))
    shift = pruned.norm.running_mean - model.norm.running_mean
    torch.testing.assert_close(shift, after - before, rtol=1e-3, atol=1e-5)


def test_a_weight_that_two_layers_share_is_pruned_in_both():
    model = Tied().eval()
    batches = [torch.randn(256, 8)]
    plan = mipp.plan(model, batches, "params=60%", granularity="weight", **QUICK)
    pruned = plan.apply()
    assert pruned.first.weight is pruned.second.weight
    assert plan.before.params == sum(p.numel() for p in model.parameters())
    assert weights_left(pruned, plan.masks) == plan.after.weights


def test_what_is_zero_already_stays_zero():
    model, batches = mlp(), vectors()
    first = mipp.plan(model, batches, granularity="2:4", **QUICK)
    half = first.apply()
    again = mipp.plan(half, batches, "params=60%", granularity="weight", **QUICK)
    assert again.before.weights == first.after.weights
    for name, mask in again.masks.items():
        assert not (mask & ~first.masks[name]).any()
    both = again.apply()
    assert weights_left(both, again.masks) == again.after.weights


def test_the_same_seed_gives_the_same_plan_and_passes_bound_by_memory_do_too():
    model, batches = Mixed(), images(128)
    plans = [
        mipp.plan(model, batches, "params=30%", granularity="weight", memory=memory, seed=3)
        for memory in ("1GiB", "1GiB", 1)
    ]
    assert plans[0].record.masks == plans[1].record.masks
    # each layer is measured in a pass of its own, by the same draws
    for mask, other in zip(plans[0].masks.values(), plans[2].masks.values(), strict=True):
        assert (mask == other).float().mean() > 0.98


@pytest.mark.parametrize("method", ["l1", "wanda", "sparsegpt", "snip", "grasp", "synflow"])
def test_every_method_keeps_to_the_budget(method):
    torch.manual_seed(1)
    model, x = mlp(), vectors()[0]
    batches = [(x, torch.arange(len(x)) % 4)]
    plan = mipp.plan(model, batches, "params=40%", granularity="weight", method=method)
    assert plan.record.options["method"] == method
    assert plan.after.params <= 0.4 * plan.before.params
    # rows and blocks are rounded down
    assert plan.after.params >= 0.34 * plan.before.params
    assert np.isnan(plan.summary[0].nats_before)
    own = plan.apply(refit="own")
    assert weights_left(own, plan.masks) == plan.after.weights


def test_magnitude_is_ranked_within_layers_or_over_all_of_them():
    model, batches = mlp(), vectors()
    with torch.no_grad():
        model[2].weight.mul_(100)
    plans = {a: mipp.plan(model, batches, "params=50%", granularity="weight", method="l2",
                          allocation=a) for a in ("global", "uniform", "rows")}  # fmt: skip
    assert plans["global"].masks["2.weight"].float().mean() > 0.9
    assert plans["global"].masks["0.weight"].float().mean() < 0.45
    shares = [float(mask.float().mean()) for mask in plans["uniform"].masks.values()]
    assert shares[0] == pytest.approx(shares[1], abs=0.02)
    for mask in plans["rows"].masks.values():
        assert len(set(mask.sum(1).tolist())) == 1


def test_sparsegpts_own_weights_are_better_than_its_zeros_alone():
    model, (x,) = mlp(), vectors()
    plan = mipp.plan(model, [x], granularity="2:4", method="sparsegpt")
    off = [
        float((plan.apply(refit=how)(x) - model(x)).square().mean().detach())
        for how in (False, "own")
    ]
    assert off[1] < off[0]
    again = mipp.WeightPlan.from_json(plan.to_json(), model, [x])
    with pytest.raises(errors.InputError, match="read from text, which does not hold the weights"):
        again.apply(refit="own")


def test_a_plan_is_kept_as_text_and_gives_the_same_model_again():
    model, batches = Mixed(), images(128)
    plan = mipp.plan(model, batches, "params=30%", granularity="weight")
    again = mipp.WeightPlan.from_json(plan.to_json(), model, batches)
    assert again.record == plan.record
    first, second = plan.apply().state_dict(), again.apply().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    bare = mipp.WeightPlan.from_json(plan.to_json(), model)
    with pytest.raises(errors.InputError, match="A refit needs calibration batches"):
        bare.apply()
    assert torch.equal(bare.mask().stem.weight, plan.mask().stem.weight)
    with pytest.raises(errors.InputError, match="read without a model"):
        mipp.WeightPlan.from_json(plan.to_json()).mask()
    with pytest.raises(errors.InputError, match="made for another model"):
        mipp.WeightPlan.from_json(plan.to_json(), mlp()).mask()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t[:-20], "not a plan: expected JSON text"),
        (lambda t: t.replace('"kind": "weights"', '"kind": "units"'), "of kind 'units'"),
        (lambda t: t.replace('"weights_after": ', '"weights_after": 1'), "weights that stay, got"),
        (lambda t: t.replace('"0.weight": "', '"0.weight": "AAAA'), "cannot be unpacked"),
        (lambda t: t.replace('"seed": 0', '"seed": 0}, "more": {"a": 0'), "damaged plan"),
    ],
)
def test_a_damaged_plan_is_refused(change, text):
    plan = mipp.plan(mlp(), vectors(), "params=40%", granularity="weight", **QUICK)
    with pytest.raises(errors.FileError, match=text):
        mipp.WeightPlan.from_json(change(plan.to_json()))


@pytest.mark.parametrize(
    ("budget", "options", "error", "text"),
    [
        ("macs=50%", {}, errors.InputError, "zeros .* save no multiply-accumulates"),
        ("latency=50%", {}, errors.InputError, "budget of latency"),
        ({"*": "params=50%"}, {}, errors.InputError, "expected one budget for the whole model"),
        (None, {}, errors.InputError, "No budget was given"),
        ("params=50%", {"granularity": "2:4"}, errors.InputError, "the pattern itself says"),
        ("params=50%", {"granularity": "row"}, errors.InputError, "granularity='row'; expected"),
        ("params=50%", {"min_units": 2}, errors.InputError, "has no use for min_units"),
        ("params=50%", {"colour": 2}, errors.InputError, "no option colour"),
        ("params=50%", {"method": "hrank"}, errors.InputError, "'hrank' chooses units, not single"),
        ("params=50%", {"method": mipp.methods.Mipp(rounds=5)}, errors.InputError, "in one round"),
        ("params=50%", {"method": "guess"}, errors.InputError, "'guess' is not known; single"),
        ("params=50%", {"allocation": "global"}, errors.InputError, "'global'; expected one of"),
        ("params=50%", {"noise": 0}, errors.InputError, "noise=0; expected 'fisher'"),
        ("params=50%", {"ridge": 0}, errors.InputError, "ridge=0; expected a number above 0"),
        ("params=50%", {"refit": mipp.Refit(fits="bias")}, errors.InputError, "fits='weights' and"),
        ("information=90%", {"method": "l2"}, errors.InputError, "measures no information"),
        ("params=1%", {}, errors.BudgetError, r"params <= 2 cannot be reached: 16 parameters are"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_an_error(budget, options, error, text):
    with pytest.raises(error, match=text):
        mipp.plan(mlp(), vectors(), budget, **({"granularity": "weight"} | options))


def test_options_of_units_name_the_methods_of_weights():
    names = mipp.methods.weight_names()
    assert names[:3] == ["mipp", "sparsegpt", "wanda"]
    assert {"l1", "l2", "snip", "grasp", "synflow", "random"} <= set(names)
    assert "hrank" not in names


@pytest.mark.parametrize("n", [2, 6, 12])
def test_a_refit_on_few_examples_does_no_more_harm_than_none(n):
    worst = 0.0
    for seed in range(3):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 10)).eval()
        plan = mipp.plan(net, [torch.randn(n, 32)], "params=30%", granularity="weight")
        x = torch.randn(512, 32)
        with torch.no_grad():
            whole, bare, fitted = net(x), plan.apply(refit=False)(x), plan.apply()(x)
        worst = max(worst, float((fitted - whole).norm() / (bare - whole).norm()))
    assert worst <= 1.05


def test_an_input_that_barely_occurs_does_not_get_a_huge_weight():
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 3))
    x = torch.randn(400, 4)
    with torch.no_grad():
        reached = x @ model[0].weight[1] + model[0].bias[1]
        model[0].bias[1] += 1e-3 - reached.max()  # one example has 0.001 of it, all others none
        model[2].weight[:, 1] = 2.0
    plan = mipp.plan(model, [x], "params=80%", granularity="weight", method="l2", protect="0")
    stays = plan.masks["2.weight"][:, 1]
    assert stays.any()
    change = (plan.apply()[2].weight - model[2].weight)[:, 1][stays]
    assert change.abs().max() < 0.5
