"""What every method that `mipp.plan` takes has to do, on small nets, whatever it computes."""

import copy
from dataclasses import fields, replace

import pytest
import torch
from torch import nn

import mipp
from mipp import errors, methods

NAMES = [name for name in methods.names() if name != "mipp"]
FACTS = {row.name: row for row in methods.facts()}


class Residual(nn.Module):
    """A stem whose channels run past a block, with a BatchNorm or without, and a hidden layer."""

    def __init__(self, norm):
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1, bias=not norm)
        self.norm0 = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.inner = nn.Conv2d(6, 8, 3, padding=1, bias=not norm)
        self.norm1 = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.outer = nn.Conv2d(8, 6, 1)
        self.hidden, self.head = nn.Linear(6 * 4, 7), nn.Linear(7, 4)
        self.norm2 = nn.BatchNorm1d(7) if norm else nn.Identity()

    def forward(self, x):
        x = self.norm0(self.stem(x)).relu()
        x = x + self.outer(self.norm1(self.inner(x)).relu())
        x = nn.functional.max_pool2d(x, 2).flatten(1)
        return self.head(self.norm2(self.hidden(x)).relu())


def chain(norm):
    """No way round any layer."""
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5) if norm else nn.Identity(), nn.ReLU(),
        nn.Conv2d(5, 6, 3), nn.BatchNorm2d(6) if norm else nn.Identity(), nn.ReLU(), nn.Flatten(),
        nn.Linear(6 * 4, 7), nn.BatchNorm1d(7) if norm else nn.Identity(), nn.ReLU(),
        nn.Linear(7, 4),
    )  # fmt: skip


def batches(n=96):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 2, 4, 4, generator=generator)
    # something to learn, so that no gradient is all noise
    y = (x[:, 0, :2].sum((1, 2)) > 0).long() + 2 * (x[:, 1].sum((1, 2)) > 0).long()
    return list(zip(x.split(32), y.split(32), strict=True))


def quick(name):
    """The method with few rounds."""
    method = methods.get(name)
    return replace(method, rounds=min(method.rounds, 3))


def training(name):
    """What methods that train are given, and the others are not."""
    if methods.get(name).needs != "training":
        return {}
    recipe = mipp.retrain.Recipe(epochs=2, peak_lr=0.02, schedule="constant")
    return {"training": mipp.Training(batches(), recipe)}


def trained_state(model):
    """Parameters and statistics as after some training: none is what it starts as."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                    tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return model


NETS = {
    "residual-batchnorm": lambda: Residual(norm=True),
    "residual": lambda: Residual(norm=False),
    "chain-batchnorm": lambda: chain(norm=True),
    "chain": lambda: chain(norm=False),
}


def refuses(name, net):
    """Whether the method says that it cannot rank the units of such a net, trained."""
    return name == "bnscale" and "batchnorm" not in net


def same_state(a, b):
    mine, other = a.state_dict(), b.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[k], other[k]) for k in mine)


def snapshot(model):
    return {
        "state": copy.deepcopy(model.state_dict()),
        "modes": [module.training for module in model.modules()],
        "wanted": [parameter.requires_grad for parameter in model.parameters()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
    }


def assert_untouched(model, before, generator):
    after = snapshot(model)
    assert after["modes"] == before["modes"]
    assert after["wanted"] == before["wanted"]
    assert after["hooks"] == before["hooks"]
    assert all(torch.equal(after["state"][key], old) for key, old in before["state"].items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


def make(name, model, budget, **options):
    return mipp.plan(model, batches(), budget, method=quick(name), **training(name), **options)


@pytest.mark.parametrize("net", ["residual-batchnorm", "residual"])
@pytest.mark.parametrize("name", NAMES)
def test_budget_met_masked_is_sliced_outputs_intact_deterministic_and_the_model_untouched(
    name, net
):
    model = trained_state(NETS[net]()).train()
    model.stem.weight.requires_grad_(False)
    before, generator = snapshot(model), torch.get_rng_state()
    if refuses(name, net):
        with pytest.raises(
            errors.InputError, match=r"'bnscale' cannot rank .* it has no BatchNorm"
        ):
            make(name, model, "macs=50%")
        assert_untouched(model, before, generator)
        return
    plan = make(name, model, "macs=50%")
    assert_untouched(model, before, generator)
    # the dearest unit, of the stem, has a sixth of the stem's own and of the block's products
    assert 1 / 3 < plan.after.macs / plan.before.macs <= 0.5
    assert min(len(units) for units in plan.keep.values()) >= 1
    assert plan.collapsed == ()
    sliced, masked = plan.apply(refit=False).eval(), plan.mask().eval()
    x = batches()[0][0]
    torch.testing.assert_close(sliced(x), masked(x), rtol=1e-5, atol=1e-5)
    assert sliced(x).shape == (32, 4)
    head = plan.model.head
    assert torch.equal(sliced.head.weight, head.weight[:, list(plan.keep["hidden"])])
    assert torch.equal(sliced.head.bias, head.bias)
    assert sum(p.numel() for p in sliced.parameters()) == plan.after.params
    # the plan's seed decides, and not where the global generators are
    with torch.random.fork_rng():
        torch.manual_seed(11)
        again = make(name, model, "macs=50%")
    assert again.to_json() == plan.to_json()
    assert same_state(again.model, plan.model)
    assert same_state(plan.model, model) == (FACTS[name].needs != "training")
    assert plan.record.options["method"] == name
    assert mipp.Plan.from_json(plan.to_json()).keep == plan.keep


@pytest.mark.parametrize("name", NAMES)
def test_budgets_of_units_are_met_exactly_and_protected_groups_are_whole(name):
    model = trained_state(Residual(norm=True))
    plan = make(name, model, "units=12", protect="hidden")
    assert plan.after.units == sum(len(units) for units in plan.keep.values()) == 12
    assert len(plan.keep["hidden"]) == 7


@pytest.mark.parametrize("net", ["residual", "chain-batchnorm"])
@pytest.mark.parametrize("name", NAMES)
def test_it_works_at_initialisation_or_says_why_not(name, net):
    model = NETS[net]()
    if FACTS[name].at_init:
        plan = make(name, model, "params=60%")
        assert 0.4 < plan.after.params / plan.before.params <= 0.6
        assert plan.apply()(batches()[0][0]).shape == (32, 4)
        return
    why = "it has no BatchNorm" if refuses(name, net) else "all factors .* are the same: train it"
    with pytest.raises(
        errors.InputError, match=f"'{name}' cannot rank the units of this net: {why}"
    ):
        make(name, model, "params=60%")


@pytest.mark.parametrize("name", NAMES)
def test_training_is_given_to_methods_that_train_and_to_no_other(name):
    model = chain(norm=True)
    given = {} if training(name) else {"training": mipp.Training(batches(), mipp.retrain.Recipe())}
    how = "with" if given else "without"
    with pytest.raises(errors.InputError, match=f"'{name}' was given {how} training="):
        mipp.plan(model, batches(), "units=50%", method=name, **given)


@pytest.mark.parametrize("name", NAMES)
def test_without_labels_it_works_or_says_that_it_needs_them(name):
    model, inputs = trained_state(chain(norm=True)), [x for x, _ in batches()]
    before, generator = snapshot(model), torch.get_rng_state()
    if FACTS[name].needs == "labels":
        with pytest.raises(
            errors.InputError, match=rf"'{name}' needs labels, and batch 0 has none"
        ):
            mipp.plan(model, inputs, "units=50%", method=quick(name))
    else:
        plan = mipp.plan(model, inputs, "units=50%", method=quick(name), **training(name))
        assert plan.after.units <= 9
    assert_untouched(model, before, generator)


# without BatchNorm what is left of an empty layer is the same, whatever the method: one is enough
@pytest.mark.parametrize(
    ("name", "net"), [*((name, "chain-batchnorm") for name in NAMES), ("l2", "chain")]
)
def test_a_collapse_is_recorded_and_gives_a_model_that_runs_at_chance(name, net):
    model = trained_state(NETS[net]())
    with pytest.raises(errors.BudgetError, match="units <= 2 cannot be reached"):
        make(name, model, "units=2")
    plan = make(name, model, "units=2", min_units=0)
    assert plan.after.units == sum(len(units) for units in plan.keep.values()) <= 2
    assert plan.collapsed == tuple(g for g, units in plan.keep.items() if not units) != ()
    assert f"collapsed: {plan.collapsed[0]}" in str(plan)
    x = batches()[0][0]
    masked = plan.mask().eval()
    for refit in (False, True):
        small = plan.apply(refit=refit).eval()
        outputs = small(x)
        assert torch.isfinite(outputs).all()
        torch.testing.assert_close(outputs, outputs[:1].expand_as(outputs))  # one answer for all
        assert len(set(small(x).argmax(1).tolist())) == 1
    torch.testing.assert_close(plan.apply(refit=False).eval()(x), masked(x))
    read = mipp.Plan.from_json(plan.to_json(), plan.model, batches())
    assert read.collapsed == plan.collapsed
    small = read.apply(refit=False).eval()
    torch.testing.assert_close(small(x), masked(x))
    recipe = mipp.retrain.Recipe(epochs=1, peak_lr=0.1, schedule="constant")
    mipp.retrain.train(small, batches(), recipe, progress=False)
    outputs = small(x)
    torch.testing.assert_close(outputs, outputs[:1].expand_as(outputs))  # nothing comes back
    assert not torch.allclose(outputs, masked(x))


@pytest.mark.parametrize("name", NAMES)
def test_masked_is_sliced_where_the_stream_or_the_block_of_a_residual_is_empty(name):
    model = trained_state(Residual(norm=True))
    for widths in ({"stem": 0}, {"inner": 0}):
        plan = mipp.plan(
            model, batches(), widths=widths, method=quick(name), min_units=0, **training(name)
        )
        (empty,) = plan.collapsed
        assert widths[empty] == 0
        x = batches()[0][0]
        outputs = plan.apply(refit=False).eval()(x)
        torch.testing.assert_close(outputs, plan.mask().eval()(x), rtol=1e-5, atol=1e-5)
        # past an empty block the stream goes on
        assert (outputs.std(0) > 1e-6).all() == (empty == "inner")


@pytest.mark.parametrize("name", NAMES)
def test_the_facts_are_told_and_are_those_that_there_are(name):
    row = FACTS[name]
    assert row.needs in {"nothing", "data", "labels", "training"}
    assert row.ranking in {"global", "local"}
    assert row.rounds >= 1
    assert row.summary
    assert row.source
    method = methods.get(name)
    assert isinstance(method, methods.ScoringMethod) == (row.needs != "training")
    assert {option.name for option in fields(method)} >= {"rounds"}
    with pytest.raises(errors.InputError, match="rounds=0; expected at least 1"):
        replace(method, rounds=0)


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_untouched_after_an_error_too(name):
    model = trained_state(chain(norm=True)).train()
    before, generator = snapshot(model), torch.get_rng_state()

    def fail(stage, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(name, model, "units=50%", progress=fail)
    assert_untouched(model, before, generator)
