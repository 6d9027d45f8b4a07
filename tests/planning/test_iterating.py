"""Prune, retrain, prune again: one numbering, one optimizer."""

import copy

import pytest
import torch
from torch import nn

import mipp
from mipp.errors import InputError


class Residual(nn.Module):
    """A tied group, an inner one with a norm, a flatten."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 12, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.outer = nn.Conv2d(12, 8, 1)
        self.hidden = nn.Linear(8 * 16, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, x):
        x = self.stem(x).relu()
        x = x + self.outer(self.norm(self.inner(x)).relu())
        return self.head(self.hidden(x.flatten(1)).relu())


def batches():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(96, 2, 4, 4, generator=generator)
    return list(
        zip(x.split(48), torch.randint(0, 4, (96,), generator=generator).split(48), strict=True)
    )


def trained(model, optimizer, steps=3):
    model.train()
    for x, y in batches() * steps:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def part(tensor, indices, name):
    """What is left of a tensor of the whole model."""
    for (owner, dim), kept in indices.items():
        if owner == name:
            tensor = tensor.index_select(dim, torch.tensor(kept))
    return tensor


def two_rounds(model, later="units=40%"):
    first = mipp.plan(model, batches(), "units=70%")
    small = first.apply(refit=False)
    second = mipp.plan(small, batches(), later)
    return first, small, second


def test_two_rounds_are_one_plan_for_the_first_model():
    model = Residual()
    first, _, second = two_rounds(model)
    both = first.then(second)
    for group in first.traced.groups:
        kept = first.keep[group.name]
        expected = tuple(kept[unit] for unit in second.keep.get(group.name, range(len(kept))))
        assert both.keep[group.name] == expected
    assert both.before == first.before
    assert both.after == second.after
    twice, once = second.apply(refit=False), both.apply(refit=False)
    assert all(torch.equal(v, twice.state_dict()[n]) for n, v in once.state_dict().items())
    read = mipp.Plan.from_json(both.to_json(), model)
    assert read.keep == both.keep
    masked = both.mask().eval()(batches()[0][0])
    torch.testing.assert_close(once.eval()(batches()[0][0]), masked, rtol=1e-5, atol=1e-5)


def test_a_loaded_model_still_knows_the_first_numbering(tmp_path):
    model = Residual()
    first, small, _ = two_rounds(model)
    mipp.save(small, tmp_path / "small.safetensors")
    loaded = mipp.load(Residual(), tmp_path / "small.safetensors")
    assert mipp.original_indices(loaded) == mipp.original_indices(small)
    second = mipp.plan(loaded, batches(), "units=40%")
    twice = second.apply(refit=False)
    indices = mipp.original_indices(nn.DataParallel(twice))
    assert mipp.original_indices(model) == {}
    for name, value in twice.state_dict().items():
        assert torch.equal(value, part(model.state_dict()[name], indices, name))
    assert first.then(second).apply(refit=False).hidden.in_features == twice.hidden.in_features


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_the_optimizer_follows_through_both_rounds(kind):
    make = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
        "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    }[kind]
    state = {"sgd": "momentum_buffer", "adam": "exp_avg"}[kind]
    model = Residual()
    optimizer = make(model.parameters())
    trained(model, optimizer)
    momenta = {n: optimizer.state[p][state].clone() for n, p in model.named_parameters()}
    first, small, second = two_rounds(model)
    middle = first.remap(optimizer, small)
    twice = second.apply(refit=False)
    last = second.remap(middle, torch.compile(twice, backend="eager"))
    indices = mipp.original_indices(twice)
    for name, parameter in twice.named_parameters():
        assert torch.equal(last.state[parameter][state], part(momenta[name], indices, name))
    # at once from the first model is the same
    straight = first.then(second).remap(optimizer, twice)
    for parameter in twice.parameters():
        assert torch.equal(straight.state[parameter][state], last.state[parameter][state])
    before = copy.deepcopy(twice.state_dict())
    trained(twice, last)
    assert not any(torch.equal(p, before[n]) for n, p in twice.named_parameters())


def test_a_plan_after_retraining_is_composed_too():
    model = Residual()
    first = mipp.plan(model, batches(), "units=70%")
    small = first.apply()
    trained(small, torch.optim.SGD(small.parameters(), lr=0.05))
    both = first.then(mipp.plan(small, batches(), "units=40%", method="l2"))
    assert both.after.units <= 0.4 * first.after.units
    assert both.record.options["method"] == "l2"
    assert both.record.options["after"]["method"] == "mipp"


def test_groups_that_are_gone_or_empty_stay_so():
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 20), nn.ReLU(), nn.Linear(20, 3))
    data = [torch.randn(64, 6)]
    first = mipp.plan(model, data, widths={"0": 1, "2": 10})
    second = mipp.plan(first.apply(refit=False), data, "units=50%")
    both = first.then(second)
    assert both.keep["0"] == first.keep["0"]
    assert len(both.keep["2"]) == 5
    assert set(both.keep["2"]) < set(first.keep["2"])


def test_plans_that_do_not_follow_each_other_are_refused():
    model = Residual()
    first, _, second = two_rounds(model)
    with pytest.raises(InputError, match="Make it for what"):
        second.then(first)
    with pytest.raises(InputError, match="traced model"):
        mipp.Plan.from_json(first.to_json(), model).then(second)


class Grouped(nn.Module):
    """The convolution has a group of its own once its input has fewer channels than groups."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 16)
        self.g, self.c = nn.Conv1d(16, 16, 1, groups=4), nn.Linear(16, 4)

    def forward(self, x):
        x = self.b(self.a(x).relu()).relu().unsqueeze(2)
        return self.c(self.g(x).squeeze(2).relu())


def test_what_only_a_later_round_could_prune_stays_whole():
    torch.manual_seed(0)
    model, batches = Grouped(), [torch.randn(64, 8) for _ in range(4)]
    for budget in ("params=60%", {"a": "units=50%", "b": "units=25%"}):
        plan = mipp.plan(model, batches, budget, rounds=2, noise=0.1)
        assert set(plan.keep) == {group.name for group in plan.traced.groups}
        assert plan.after.params < plan.before.params
        assert plan.apply()(batches[0]).shape == (64, 4)
