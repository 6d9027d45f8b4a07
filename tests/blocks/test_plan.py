"""Plans of blocks: what goes first, budgets, refits, and plans as text."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F

import mipp
from mipp import errors
from mipp.options import BlockOptions
from tests.blocks.nets import (
    Plain,
    Residual,
    Shared,
    stacked,
    trained_resnet,
    vectors,
    with_identities,
)


def planned(net, budget="units=50%", **options):
    return mipp.plan(net, vectors(), budget, granularity="block", progress=False, **options)


def divergence(small, whole, batches):
    with torch.no_grad():
        x = torch.cat(list(batches))
        found, taught = small(x).log_softmax(1), whole(x).log_softmax(1)
        return float(F.kl_div(found, taught, log_target=True, reduction="batchmean"))


@pytest.mark.parametrize("order", ["greedy", "ordered"])
def test_blocks_that_are_the_identity_go_first_at_no_loss(order):
    net = with_identities((1, 3))
    plan = planned(net, order=order)
    assert plan.removed == ("1.layers.1", "1.layers.3")
    assert plan.record.nats == 0.0
    rows = {row.name: row.nats_alone for row in plan.summary}
    assert rows["1.layers.1"] == rows["1.layers.3"] == 0.0
    assert min(rows["1.layers.0"], rows["1.layers.2"]) > 1e-4
    x = torch.cat(vectors())
    torch.testing.assert_close(plan.apply(refit=False)(x), net(x))
    torch.testing.assert_close(plan.apply()(x), net(x), rtol=1e-3, atol=1e-4)


def test_nats_are_the_divergence_of_what_apply_returns():
    net = stacked()
    plan = planned(net)
    small = plan.apply(refit=False)
    assert plan.record.nats == pytest.approx(divergence(small, net, vectors()), rel=1e-4)
    last = plan.record.in_order()[-1]
    assert (last.removed, last.nats_then) == (2, plan.record.nats)
    # on fewer examples another number
    few = planned(net, score_samples=64)
    assert few.record.nats != plan.record.nats


def test_of_numbers_the_loss_is_half_the_error_as_a_share_of_the_variance():
    net = stacked()
    plan = planned(net, "units=75%", loss="gaussian")
    x = torch.cat(vectors())
    with torch.no_grad():
        whole, small = net(x), plan.apply(refit=False)(x)
    share = (small - whole).square().mean() / whole.var(correction=0)
    assert plan.record.nats == pytest.approx(float(share) / 2, rel=1e-4)


def test_greedy_measures_again_what_a_removal_changes():
    """The second block undoes the first: once one of them is gone, the other has to go, too."""
    net = stacked(4)
    direction = torch.ones(8)
    with torch.no_grad():
        for n, size in ((0, 2.0), (1, -2.0), (2, 3.0), (3, 4.0)):
            layer = net[1].layers[n]
            for parameter in layer.parameters():
                parameter.zero_()
            layer.second.bias.copy_(size * direction)
    greedy, ordered = (planned(net, order=order) for order in ("greedy", "ordered"))
    assert set(greedy.removed) == {"1.layers.0", "1.layers.1"}
    assert greedy.record.nats == pytest.approx(0, abs=1e-6)
    assert ordered.record.nats >= greedy.record.nats


@pytest.mark.parametrize("budget", ["macs=60%", "params=60%", "units=3", "macs=80%,params=70%"])
def test_budgets_are_met_by_what_apply_returns(budget):
    net = stacked()
    plan = planned(net, budget)
    small = plan.apply(refit=False)
    assert sum(p.numel() for p in small.parameters()) == plan.after.params
    limits = mipp.selection.parse_budget(budget).limits(plan.before)
    assert all(getattr(plan.after, name) <= limit for name, limit in limits.items())
    fewer = [name for name in plan.removed if name != plan.removed[-1]]
    assert len(fewer) < 4
    assert len(small[1].layers) == plan.after.units


@pytest.mark.parametrize("alias", ["", "list", "block"])
def test_parameters_of_several_blocks_or_names_are_counted_once_and_go_with_the_last(alias):
    net = Shared(alias).eval()
    for n in (1, 2, 3):
        kept = "layers.2" if n == 2 else "layers.0"
        plan = planned(net, f"units={4 - n}", protect=[f"*{kept.partition('.')[2]}"])
        small = plan.apply(refit=False)
        assert sum(p.numel() for p in small.parameters()) == plan.after.params


class Wild(Residual):
    """Scales what goes through it."""

    def __init__(self, width, factor):
        super().__init__(width)
        self.factor = factor

    def forward(self, x):
        return super().forward(x) * self.factor


def test_a_block_without_which_answers_are_not_finite_stays():
    net = stacked(2)
    net[1].layers += [Wild(8, 1e25), Wild(8, 1e-25)]
    plan = planned(net.eval(), "units=2", loss="gaussian")
    refused = {row.name: row.reason for row in plan.refused}
    assert refused == {"1.layers.3": "without it the model's answers are not finite"}
    assert (plan.before.units, plan.after.units) == (3, 2)
    assert mipp.BlockPlan.from_json(plan.to_json()).removed == plan.removed


def counted(milliseconds):
    """A stopwatch for which a run takes as long as a function of its operations says."""

    def stopwatch(works, *, seconds, fewest, device):
        times = []
        for work in works:
            with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
                work()
            times.append(
                torch.full((25,), milliseconds(counter.get_total_flops())).double().numpy()
            )
        return times

    return mipp.Latency(stopwatch=stopwatch)


def test_blocks_that_save_time_only_together_go_one_after_the_other():
    """One block less saves nothing that can be measured; two do, and no more have to go."""
    net, x = stacked(4), vectors()[0]
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x[:1])
    whole = counter.get_total_flops()
    steps = counted(lambda flops: 10.0 if flops > 0.7 * whole else 5.0)
    plan = planned(net, "latency=60%", latency=steps)
    assert plan.after.units == 2
    assert plan.after.latency == 5.0
    with pytest.raises(errors.BudgetError, match=r"without all 3 blocks that may go \(protect= ke"):
        planned(net, "latency=10%", latency=steps, protect="1.layers.0")


def test_a_budget_of_latency_is_measured_on_the_model_without_the_blocks():
    settings = counted(lambda flops: flops / 1e3)
    plan = planned(stacked(), "latency=60%", latency=settings)
    assert plan.after.latency <= 0.6 * plan.before.latency
    assert "ms (" in str(plan)
    again = mipp.BlockPlan.from_json(plan.to_json())
    assert again.after.latency == plan.after.latency
    assert planned(stacked(), "macs=60%").after.latency is None


def test_several_budgets_share_what_is_measured():
    ticks = []
    plans = mipp.plans(
        stacked(), vectors(), ["units=75%", "units=50%"], granularity="block",
        progress=lambda stage, done, total: ticks.append((stage, done, total)),
    )  # fmt: skip
    assert [plan.after.units for plan in plans] == [3, 2]
    assert set(plans[0].removed) <= set(plans[1].removed)
    assert len([tick for tick in ticks if tick[0] == "score"]) == 4 + 3


def test_protected_blocks_stay():
    net = with_identities((1,))
    plan = planned(net, "units=75%", protect="1.layers.1")
    assert "1.layers.1" not in plan.removed
    with pytest.raises(errors.InputError, match=r"protect='layers\.9' names no block"):
        planned(net, protect="layers.9")


def test_a_plan_is_the_same_after_a_way_through_text():
    net = stacked()
    plan = planned(net)
    again = mipp.BlockPlan.from_json(plan.to_json(), net, vectors())
    assert (str(again), again.to_json()) == (str(plan), plan.to_json())
    x = torch.cat(vectors())
    assert torch.equal(again.apply()(x), plan.apply()(x))
    assert again.metrics() == plan.metrics()
    content = json.loads(plan.to_json())
    content["summary"][0]["removed"] = 7
    with pytest.raises(errors.FileError, match="damaged plan"):
        mipp.BlockPlan.from_json(json.dumps(content))
    with pytest.raises(errors.FileError, match="not a plan of blocks"):
        mipp.BlockPlan.from_json(mipp.plan(net, vectors(), "units=50%").to_json())
    with pytest.raises(errors.InputError, match="read without a model"):
        mipp.BlockPlan.from_json(plan.to_json()).apply()
    with pytest.raises(errors.InputError, match="has none"):
        mipp.BlockPlan.from_json(plan.to_json(), net).apply()
    with pytest.raises(errors.InputError, match="made for another model"):
        mipp.BlockPlan.from_json(plan.to_json(), stacked(3)).apply(refit=False)


def test_a_refit_brings_a_trained_net_nearer_to_the_whole_one():
    net, images = trained_resnet()
    state = copy.deepcopy(net.state_dict())
    plan = mipp.plan(net, images, "units=60%", granularity="block", progress=False)
    bare, fitted = plan.apply(refit=False), plan.apply()
    assert divergence(fitted, net, images) < 0.5 * divergence(bare, net, images)
    tuned = plan.apply(refit=False, tune=mipp.Tune(passes=3), progress=False)
    assert divergence(tuned, net, images) < divergence(bare, net, images)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert type(fitted) is type(net)
    fitted.load_state_dict(bare.state_dict())


@pytest.mark.parametrize("refit", ["sequential", "closed", "norm", mipp.Refit(fits="bias")])
def test_each_kind_of_refit_keeps_the_model_ordinary(refit):
    net, images = Plain().eval(), [torch.randn(64, 1, 8, 8)]
    plan = mipp.plan(net, images, "units=67%", granularity="block")
    small = plan.apply(refit=refit)
    bare = plan.apply(refit=False)
    assert not any("forward" in vars(module) for module in small.modules())
    changed = [n for n, v in small.state_dict().items() if not torch.equal(v, bare.state_dict()[n])]
    assert changed
    exported = torch.export.export(small, (images[0],))
    torch.testing.assert_close(exported.module()(images[0]), small(images[0]))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"budget": "information=99%"}, "expected macs=, params=, latency= or units="),
        ({"budget": None}, "No budget was given"),
        ({"protect": "*"}, r"without all 0 blocks that may go \(protect= keeps 4\) units=4"),
        ({"budget": "macs=1%"}, r"without all 4 blocks that may go macs="),
        ({"method": "l2"}, "has no use for method"),
        ({"wrong": 1}, "has no option wrong"),
        ({"order": "x"}, "expected 'greedy' or 'ordered'"),
        ({"loss": lambda o, t: 0}, "'auto', 'categorical' or 'gaussian'"),
        ({"score_samples": 0}, "score_samples=0"),
        ({"refit": mipp.Refit(fits="scale")}, "fits='scale'"),
        ({"blocks": 3}, "blocks= holds 3"),
    ],
)
def test_what_does_not_fit_is_an_error_that_says_so(options, text):
    with pytest.raises(mipp.MippError, match=text):
        planned(stacked(), **{"budget": "units=50%", **options})


def test_a_plan_shows_itself(tmp_path):
    pytest.importorskip("plotly")
    plan = planned(stacked())
    plan.report(tmp_path / "plan.html", name="made")
    page = (tmp_path / "plan.html").read_text()
    assert "<title>made pruned to units=50%</title>" in page
    for words in ("nats lost before a refit", "Whole blocks, order greedy", "1.layers.3"):
        assert words in page
    with pytest.raises(errors.InputError, match=r"expected plans of units.*Leave it out"):
        plan.report(tmp_path / "plan.html", others=[plan])
    assert "Plan of blocks" in plan._repr_html_()
    assert plan.metrics()["macs/left"] == plan.after.macs / plan.before.macs
    assert BlockOptions().order == plan.record.options["order"]
