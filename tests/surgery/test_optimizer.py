"""An optimizer for the small model goes on exactly where the old one stood."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from mipp.errors import InputError
from mipp.records import AxisKey
from mipp.surgery.keeps import kept_indices
from mipp.surgery.mask import mask_model
from mipp.surgery.optimizer import remap_optimizer
from mipp.surgery.slice import slice_model
from mipp.surgery.tensors import cuts_by_tensor, take

from .hand_built import CASES

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True),
    "nadam": torch.optim.NAdam,
    "asgd": torch.optim.ASGD,
}


def step(model, optimizer, inputs):
    optimizer.zero_grad()
    model(*inputs).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("name", ["lenet", "mixed", "tied"])
def test_small_model_steps_as_the_masked_one_does(name, make):
    """The masked model's surviving weights get the small model's gradients, so steps agree."""
    case = CASES[name]()
    model = mask_model(case.model, case.graph, case.keep).double()
    inputs = tuple(x.double() if x.is_floating_point() else x for x in case.inputs)
    kept = kept_indices(case.graph, case.keep)
    optimizer = make(model.parameters())
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    with torch.no_grad():
        masked_again = mask_model(model, case.graph, case.keep)
        for parameter, value in zip(model.parameters(), masked_again.parameters(), strict=True):
            parameter.copy_(value)
    small = slice_model(model, kept, case.graph.aliases)
    smaller = remap_optimizer(optimizer, model, small, kept, case.graph.aliases)
    before = [parameter.detach().clone() for parameter in small.parameters()]

    step(model, optimizer, inputs)
    step(small, smaller, inputs)
    cuts = cuts_by_tensor(model, kept, case.graph.aliases)
    for old, new in zip(model.parameters(), small.parameters(), strict=True):
        expected = take(old.detach(), cuts.get(id(old), {}))
        torch.testing.assert_close(new.detach(), expected, atol=1e-9, rtol=0)
    moved = [(a - b).abs().max() for a, b in zip(before, small.parameters(), strict=True)]
    assert min(moved) > 1e-6


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_given_optimizer_is_untouched(make):
    case = CASES["lenet"]()
    last, first = case.model.fc2.parameters(), case.model.conv1.parameters()
    optimizer = make([{"params": last, "lr": 0.5}, {"params": first}])
    step(case.model, optimizer, case.inputs)
    before = copy.deepcopy(optimizer.state_dict())
    kept = kept_indices(case.graph, case.keep)
    small = slice_model(case.model, kept)
    smaller = remap_optimizer(optimizer, case.model, small, kept)
    step(small, smaller, case.inputs)
    assert_same(before, optimizer.state_dict())
    ours = {id(p) for group in optimizer.param_groups for p in group["params"]}
    theirs = [p for group in smaller.param_groups for p in group["params"]]
    assert not ours & {id(p) for p in theirs}
    assert {id(p) for p in theirs} == {
        id(p) for p in (*small.fc2.parameters(), *small.conv1.parameters())
    }
    assert smaller.param_groups[0]["lr"] == 0.5


def assert_same(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_same(value, other[key])
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def test_step_counts_and_groups_go_on():
    case = CASES["lenet"]()
    optimizer = OPTIMIZERS["adamw"](case.model.parameters())
    for _ in range(3):
        step(case.model, optimizer, case.inputs)
    kept = kept_indices(case.graph, case.keep)
    small = slice_model(case.model, kept)
    smaller = remap_optimizer(optimizer, case.model, small, kept)
    assert {int(state["step"]) for state in smaller.state.values()} == {3}
    assert smaller.defaults == optimizer.defaults
    momentum = smaller.state[small.fc1.weight]["exp_avg"]
    assert momentum.shape == small.fc1.weight.shape == (5, 16)
    torch.optim.lr_scheduler.StepLR(smaller, 1)


def test_factored_state_of_adafactor():
    case = CASES["lenet"]()
    optimizer = torch.optim.Adafactor(case.model.parameters())
    step(case.model, optimizer, case.inputs)
    kept = kept_indices(case.graph, case.keep)
    small = slice_model(case.model, kept)
    smaller = remap_optimizer(optimizer, case.model, small, kept)
    assert smaller.state[small.fc1.weight]["row_var"].shape == (5, 1)
    assert smaller.state[small.fc1.weight]["col_var"].shape == (1, 16)
    step(small, smaller, case.inputs)


def test_parameters_of_another_model():
    case = CASES["lenet"]()
    stranger = nn.Parameter(torch.zeros(7, 2))
    optimizer = torch.optim.SGD([*case.model.parameters(), stranger], lr=0.1)
    with pytest.raises(InputError, match=r"shape \(7, 2\) that is not in the model"):
        remap_optimizer(optimizer, case.model, case.model, {})


def test_small_model_sliced_otherwise():
    case = CASES["lenet"]()
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.1)
    kept = kept_indices(case.graph, case.keep)
    with pytest.raises(InputError, match=r"expected 'conv1.weight' of shape \(3, 1, 3, 3\), got"):
        remap_optimizer(optimizer, case.model, case.model, kept)
    with pytest.raises(InputError, match="no such parameter"):
        remap_optimizer(optimizer, case.model, nn.Linear(2, 2), kept)


def test_state_of_lbfgs_cannot_be_carried_over():
    case = CASES["lenet"]()
    optimizer = torch.optim.LBFGS(case.model.parameters(), max_iter=2)

    def closure():
        optimizer.zero_grad()
        loss = case.model(*case.inputs).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    with pytest.raises(InputError, match="make a new optimizer"):
        remap_optimizer(optimizer, case.model, case.model, {})


def test_frozen_parameters_and_shared_ones():
    case = CASES["tied"]()
    optimizer = OPTIMIZERS["sgd"](case.model.parameters())
    step(case.model, optimizer, case.inputs)
    kept = {AxisKey("tokens.weight", 1): np.array([0, 4])}
    small = slice_model(case.model, kept)
    smaller = remap_optimizer(optimizer, case.model, small, kept)
    assert [p.shape for group in smaller.param_groups for p in group["params"]] == [(11, 2)]
    expected = optimizer.state[case.model.tokens.weight]["momentum_buffer"][:, [0, 4]]
    assert torch.equal(smaller.state[small.tokens.weight]["momentum_buffer"], expected)
