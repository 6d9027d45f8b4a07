"""The whole way on small nets: budgets, restoration, refusals, and that the figures are true."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mipp
from mipp import errors, models, selection, statistics
from mipp.errors import CalibrationError


class Residual(nn.Module):
    """A stem, two residual blocks, a head: one tied group and two inner ones."""

    def __init__(self, norm=True):
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.inner = nn.ModuleList(nn.Conv2d(8, 12, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(12) if norm else nn.Identity() for _ in range(2))
        self.outer = nn.ModuleList(nn.Conv2d(12, 8, 1) for _ in range(2))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x).relu()
        for inner, norm, outer in zip(self.inner, self.norms, self.outer, strict=True):
            x = x + outer(norm(inner(x)).relu())
        return self.head(x.mean((2, 3)))


class StaticView(nn.Module):
    """Spells the width of its second layer as a number."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.wide = nn.Conv2d(6, 8, 3)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.wide(self.conv(x).relu()).relu().mean((2, 3))
        return self.head(x.view(-1, 8))


def batches(shape=(2, 6, 6), n=192, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *shape, generator=generator)
    y = torch.randint(0, classes, (n,), generator=generator)
    return list(zip(x.split(64), y.split(64), strict=True))


def counted(model, x):
    with FlopCounterMode(display=False) as counter:
        model.eval()(x[:1])
    return counter.get_total_flops() / 2, sum(p.numel() for p in model.parameters())


# all methods are in tests/contract/test_methods.py; these two spend by price and by equal shares;
# every pair of two settings is there
@pytest.mark.parametrize(
    ("budget", "norm", "method"),
    [
        ("macs=50%", True, "mipp"),
        ("macs=50%", False, "l2"),
        ("params=40%", False, "mipp"),
        ("params=40%", True, "l2"),
        ("units=30%", True, "mipp"),
        ("units=30%", False, "l2"),
    ],
)
def test_a_plan_meets_the_budget_and_tells_the_truth(method, norm, budget):
    model, data = Residual(norm).train(), batches()
    before = copy.deepcopy(model.state_dict())
    plan = mipp.plan(model, data, budget, method=method)
    resource, share = budget.split("=")[0], float(budget.split("=")[1][:-1]) / 100
    assert getattr(plan.after, resource) <= share * getattr(plan.before, resource)
    x = data[0][0]
    for refit in (False, True):
        small = plan.apply(refit=refit)
        macs, params = counted(small, x)
        assert macs == plan.after.macs
        assert params == plan.after.params
        assert small(x).shape == (64, 4)
    sliced, masked = plan.apply(refit=False).eval(), plan.mask().eval()
    torch.testing.assert_close(sliced(x), masked(x), rtol=1e-5, atol=1e-5)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    again = mipp.plan(model, data, budget, method=method)
    assert again.to_json() == plan.to_json()


def widened(model, copies):
    """The same function with every hidden unit `copies` times."""
    wide = nn.Sequential(
        nn.Conv2d(2, 6 * copies, 3, padding=1), nn.ReLU(),
        nn.Conv2d(6 * copies, 5 * copies, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(5 * copies * 16, 7 * copies), nn.ReLU(), nn.Linear(7 * copies, 4),
    ).double()  # fmt: skip
    with torch.no_grad():
        for i in (0, 2, 5, 7):
            weight, bias = model[i].weight, model[i].bias
            if i == 5:
                weight = weight.view(7, 5, 16).repeat(1, copies, 1).view(7, -1) / copies
            elif i != 0:
                weight = torch.cat([weight] * copies, 1) / copies
            if i != 7:
                weight, bias = torch.cat([weight] * copies), torch.cat([bias] * copies)
            wide[i].weight.copy_(weight)
            wide[i].bias.copy_(bias)
    return wide


@pytest.mark.parametrize("options", [{}, {"noise": 0.1}, {"order": "ordered"}])
def test_all_information_kept_gives_back_the_original_width_and_function(options):
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(5 * 16, 7), nn.ReLU(), nn.Linear(7, 4),
    ).double()  # fmt: skip
    for module in model:
        if hasattr(module, "bias"):
            nn.init.uniform_(module.bias, 0.2, 0.5)  # every unit alive
    wide = widened(model, 2)
    data = [(x.double(), y) for x, y in batches(n=1600)]
    x = data[0][0]
    torch.testing.assert_close(wide(x), model(x))
    plan = mipp.plan(wide, data, "information=99.99%", **options)
    assert [group.units_after for group in plan.summary] == [7, 5, 6]
    small = plan.apply(refit=mipp.Refit(ridge=1e-9))
    torch.testing.assert_close(small(x), model(x), rtol=1e-5, atol=1e-5)


def test_nested_budgets_keep_nested_units_with_one_pass():
    model, data = Residual(), batches()
    wide = mipp.plan(model, data, "macs=60%", passes=1)
    narrow = mipp.plan(model, data, "macs=30%", passes=1)
    for name, units in narrow.keep.items():
        assert set(units) <= set(wide.keep[name])


def test_protect_round_to_and_min_units_hold():
    model, data = Residual(), batches()
    plan = mipp.plan(model, data, "macs=50%", protect=["stem"], round_to=4)
    assert len(plan.keep["stem"]) == 8
    assert all(len(units) % 4 == 0 for units in plan.keep.values())
    plan = mipp.plan(model, data, "units=60%", min_units=5)
    assert min(len(units) for units in plan.keep.values()) >= 5
    plan = mipp.plan(model, data, "macs=60%", protect="inner.*")
    assert len(plan.keep["inner.0"]) == len(plan.keep["inner.1"]) == 12


def test_a_static_view_is_refused_with_its_reason_and_the_rest_is_pruned():
    model = StaticView()
    plan = mipp.plan(model, batches((1, 7, 7), classes=3), "macs=60%")
    assert list(plan.keep) == ["conv"]
    (refusal,) = [r for r in plan.refused if r.name == "wide"]
    assert "shape" in refusal.reason or "differ" in refusal.reason
    assert plan.apply()(torch.randn(5, 1, 7, 7)).shape == (5, 3)


def test_a_product_that_is_no_layer_call_is_refused_and_the_rest_is_pruned():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 9), nn.Linear(9, 8)
            self.weight = nn.Parameter(torch.randn(3, 8))

        def forward(self, x):
            return self.second(self.first(x).relu()).relu() @ (2 * self.weight).t()

    plan = mipp.plan(Product(), [torch.randn(64, 4)], "macs=60%")
    assert list(plan.keep) == ["first"]
    assert any("multiplies by weight without a layer call" in r.reason or "matmul" in r.reason
               for r in plan.refused)  # fmt: skip
    assert plan.apply()(torch.randn(5, 4)).shape == (5, 3)


def test_nothing_prunable_is_an_error_with_the_reasons():
    with pytest.raises(errors.GraphError, match="output"):
        mipp.plan(nn.Linear(3, 2), [torch.randn(8, 3)], "macs=50%")


def test_rounds_measure_again_and_keep_original_numbers():
    model, data = Residual(), batches()
    plan = mipp.plan(model, data, "macs=30%", rounds=3)
    assert plan.after.macs <= 0.3 * plan.before.macs
    small = plan.apply(refit=False)
    keep = list(plan.keep["inner.0"])
    stream = list(plan.keep["stem"])
    torch.testing.assert_close(small.inner[0].weight, model.inner[0].weight[keep][:, stream])
    row = {group.name: group for group in plan.summary}["inner.0"]
    assert row.units_before == 12
    assert row.nats_after < row.nats_before


def test_rounds_count_the_units_of_groups_that_are_down_to_one():
    model, data = Residual(), batches()
    plan = mipp.plan(model, data, "units=5", rounds=4)
    assert plan.after.units == sum(len(units) for units in plan.keep.values()) <= 5


def test_several_budgets_and_information_together():
    model, data = Residual(), batches()
    plan = mipp.plan(model, data, "macs=70%,params=50%")
    assert plan.after.macs <= 0.7 * plan.before.macs
    assert plan.after.params <= 0.5 * plan.before.params
    with pytest.raises(errors.BudgetError, match=r"smallest is params = .* information share"):
        mipp.plan(model, data, "params=10%,information=99.9%")


@pytest.mark.parametrize("noise", ["fisher", 0.1])
@pytest.mark.parametrize("keeps", [False, True])
def test_memory_too_small_for_all_moments_changes_nothing_but_the_passes(noise, keeps, monkeypatch):
    # also where there is no room for all batches to wait, and several passes would be less
    monkeypatch.setattr(statistics, "bytes_held", lambda *_: 0)

    class Keeping(Residual):
        def forward(self, x):
            self.last = super().forward(x)
            return self.last

    model, data, stages = (Keeping() if keeps else Residual()), batches(), []
    plan = mipp.plan(model, data, "macs=50%", noise=noise)
    split = mipp.plan(
        model, data, "macs=50%", memory=50_000, noise=noise,
        progress=lambda stage, done, total: stages.append(stage) if done == 1 else None,
    )  # fmt: skip
    # layers are measured one after the other, unless forward passes cannot run side by side
    assert stages.count("capture") == (2 if keeps else 1)
    assert split.keep == plan.keep
    for ours, whole in zip(split.summary, plan.summary, strict=True):
        assert ours.nats_before == pytest.approx(whole.nats_before)
        assert ours.nats_after == pytest.approx(whole.nats_after)
    theirs = plan.apply().state_dict()
    for name, value in split.apply().state_dict().items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-2, atol=1e-2)


def test_batches_that_have_no_room_to_wait_are_measured_in_few_passes():
    torch.manual_seed(3)
    layers = []
    for inputs in (3, *[16] * 6):
        layers += [nn.Conv2d(inputs, 16, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)).eval()
    images = [torch.randn(32, 3, 16, 16) for _ in range(6)]
    passes, plans = [], []
    model[0].register_forward_pre_hook(lambda _, args: passes.append(len(args[0])))
    # six layers of 144 inputs take 1 MB, and a batch between two layers as much
    for memory in (10**9, 600_000):
        passes.clear()
        plans.append(mipp.plan(model, images, "macs=50%", noise=0.1, memory=memory))
        if memory == 10**9:
            once = sum(passes)
    assert once < sum(passes) <= 2.5 * once
    assert plans[0].keep == plans[1].keep


def test_a_plan_survives_json_and_applies_to_a_fresh_copy():
    model, data = Residual(), batches()
    plan = mipp.plan(model, data, "macs=50%")
    twin = Residual()
    twin.load_state_dict(model.state_dict())
    read = mipp.Plan.from_json(plan.to_json(), twin, data)
    x = data[0][0]
    torch.testing.assert_close(read.apply().eval()(x), plan.apply().eval()(x))
    torch.testing.assert_close(read.mask().eval()(x), plan.mask().eval()(x))
    bare = mipp.Plan.from_json(plan.to_json(), twin)
    bare.apply(refit=False)
    with pytest.raises(errors.InputError, match="refit needs calibration batches"):
        bare.apply()
    with pytest.raises(errors.InputError, match="read without a model"):
        mipp.Plan.from_json(plan.to_json()).apply()
    with pytest.raises(errors.InputError, match="made for another model"):
        mipp.Plan.from_json(plan.to_json(), StaticView()).apply(refit=False)
    assert json.loads(plan.to_json())["options"]["budget"] == "macs=50%"


def test_remap_takes_the_optimizer_along():
    model, data = Residual(), batches()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    torch.nn.functional.cross_entropy(model(data[0][0]), data[0][1]).backward()
    optimizer.step()
    plan = mipp.plan(model, data, "macs=50%")
    small = plan.apply(refit=False)
    moved = plan.remap(optimizer, small)
    state = moved.state[small.inner[0].weight]["momentum_buffer"]
    full = optimizer.state[model.inner[0].weight]["momentum_buffer"]
    keep, stream = list(plan.keep["inner.0"]), list(plan.keep["stem"])
    torch.testing.assert_close(state, full[keep][:, stream])


def test_saved_and_loaded_into_a_fresh_full_size_model(tmp_path):
    data = batches()
    small = mipp.prune(Residual(), data, "macs=40%")
    mipp.save(small, tmp_path / "small.safetensors")
    same = mipp.load(Residual, tmp_path / "small.safetensors")
    torch.testing.assert_close(same.eval()(data[0][0]), small.eval()(data[0][0]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_pruned_in_their_own(dtype):
    model = Residual().to(dtype)
    data = [(x.to(dtype), y) for x, y in batches()]
    small = mipp.prune(model, data, "macs=50%")
    assert all(p.dtype == dtype for p in small.parameters())
    assert torch.isfinite(small.eval()(data[0][0])).all()


def test_dead_and_constant_units_go_first():
    model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 3))
    with torch.no_grad():
        model[0].bias[4] = -100.0  # never active
        model[2].weight[:, 7] = 0  # never read
        model[0].weight[2] = 0  # constant
        model[0].bias[2] = 1.0
    data = [torch.randn(256, 6)]
    for noise in ("fisher", 0.1):
        plan = mipp.plan(model, data, "units=7", noise=noise)
        gone = set(range(10)) - set(plan.keep["0"])
        assert {4, 2} <= gone
    small = mipp.plan(model, data, "information=99.999%").apply()
    torch.testing.assert_close(small(data[0]), model(data[0]), rtol=1e-3, atol=1e-2)


def test_frozen_models_and_models_without_labels_are_pruned():
    model = Residual().requires_grad_(False)
    small = mipp.prune(model, [x for x, _ in batches()], "macs=50%")
    assert not any(p.requires_grad for p in small.parameters())


def test_at_initialisation_a_built_in_net_is_pruned():
    net = models.build("resnet20b", width=0.5)
    data = [torch.randn(32, 3, 32, 32)]
    plan = mipp.plan(net, data, "params=30%")
    assert plan.after.params <= 0.3 * plan.before.params
    assert plan.apply()(data[0]).shape == (32, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budgets": 3}, "no option budgets; expected some of"),
        ({"estimator": "oracle"}, "expected one of gaussian"),
        ({"noise": "loud"}, "expected 'fisher' or a positive number"),
        ({"order": "random"}, "expected one of 'greedy', 'ordered'"),
        ({"allocation": "fair"}, "expected one of 'priced', 'global', 'tolerance', 'uniform'"),
        ({"method": "magic"}, "expected one of mipp, "),
        ({"protect": ["nowhere"]}, "names no group. Groups: "),
        ({"min_units": -1}, "min_units=-1; expected a whole number, at least 0"),
        ({"rounds": 0}, "rounds=0; expected a whole number, at least 1"),
        ({"passes": 1.5}, "passes=1.5; expected a whole number, at least 1"),
        ({"estimator": mipp.Gaussian}, "or a record such as mipp.Gaussian"),
        ({"noise": None}, "noise=None; expected 'fisher' or a positive number"),
        ({"target": None}, "target=None; expected one of 'activations', 'outputs', 'labels'"),
        ({"order": None}, "order=None; expected one of 'greedy', 'ordered'"),
        ({"refit": "magic"}, "mode='magic'; expected one of 'sequential', 'closed', 'norm'"),
        ({"memory": "lots"}, "expected bytes or text such as '4GiB'"),
        ({"loss": "mse"}, "'mse' is not known"),
    ],
)
def test_options_that_do_not_fit_are_errors_that_say_so(options, message):
    model = Residual()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(errors.InputError, match=message):
        mipp.plan(model, batches(), "macs=50%", **options)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_printed_plan_names_groups_totals_and_refusals():
    text = str(mipp.plan(Residual(), batches(), "macs=50%"))
    for part in ("stem", "inner.0", "units", "MACs:", "params:", "refused: head", "nats"):
        assert part in text


def test_keep_lists_are_in_rising_order_and_nothing_is_empty():
    plan = mipp.plan(Residual(), batches(), "macs=20%")
    for units in plan.keep.values():
        assert len(units) >= 1
        assert list(units) == sorted(set(units))
        assert np.array(units).min() >= 0


def test_several_budgets_from_one_measurement_are_the_plans_of_each():
    model, data = Residual(), batches()
    budgets = ["macs=60%", "macs=30%", "information=90%"]
    found = mipp.plans(model, data, budgets, seed=3)
    for budget, one in zip(budgets, found, strict=True):
        alone = mipp.plan(model, data, budget, seed=3)
        assert one.keep == alone.keep
        assert one.to_json() == alone.to_json()
    assert set(found[1].keep["stem"]) <= set(found[0].keep["stem"])


@pytest.mark.parametrize(
    "options", [{"rounds": 2}, {"passes": 2}, {"order": "ordered"}], ids=lambda o: next(iter(o))
)
def test_several_budgets_need_a_measurement_that_does_not_depend_on_them(options):
    with pytest.raises(errors.InputError, match=r"depends on the budget\. Call mipp.plan for each"):
        mipp.plans(Residual(), batches(), ["information=90%", "information=80%"], **options)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_information_that_is_not_finite_is_an_error_where_it_arises(monkeypatch, value):
    whole = selection.eliminate

    def broken(*args):
        curve = whole(*args)
        return replace(curve, nats_lost=np.append(curve.nats_lost[:-1], value))

    monkeypatch.setattr(selection, "eliminate", broken)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(CalibrationError, match=r"that 0 transfers is not a finite.*noise=0\.1"):
        mipp.plan(model, [torch.randn(32, 6)], budget="units=50%")
