"""ProsPr: the derivative through the steps of training."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import mipp
from mipp import errors
from mipp.methods import SNIP, ProsPr

from .nets import Normed, data, jitter_norms, plain, question

SMALL = {"batch_size": 12}


def after_steps(model, batches, lr):
    """Loss on the last batch after a step of plain SGD on each of the others, all by hand."""
    other = copy.deepcopy(model)
    optimizer = torch.optim.SGD(other.parameters(), lr=lr)
    for batch in batches[:-1]:
        optimizer.zero_grad()
        cross_entropy(other(batch.args[0]), batch.target).backward()
        optimizer.step()
    optimizer.zero_grad()
    last = batches[-1]
    return other, cross_entropy(other(last.args[0]), last.target)


@pytest.mark.parametrize("make", [plain, Normed])
def test_without_steps_it_is_snip(make):
    model = jitter_norms(make()).double()
    scores = ProsPr(steps=0, batch_size=40).weight_scores(question(model))
    expected = SNIP(examples=40, batch_size=40).weight_scores(question(model))
    for name, value in expected.items():
        torch.testing.assert_close(scores[name], value, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("make", [lambda: plain(nn.Tanh), Normed])
def test_the_terms_are_the_derivative_of_the_last_loss_by_a_mask_on_the_first_weights(make):
    model = make().double().train()
    asked = question(model)
    method = ProsPr(**SMALL, lr=0.5)
    batches = method._batches(asked)
    assert len(batches) == 4
    assert len({batch.args[0].sum().item() for batch in batches}) == 4
    terms = method.terms(asked)
    step = 1e-5
    for name in [n for n, p in model.named_parameters() if p.dim() > 1]:
        at = (1, 0)
        losses = []
        for c in (1 + step, 1 - step):
            other = copy.deepcopy(model)
            with torch.no_grad():
                dict(other.named_parameters())[name][at].mul_(c)
            losses.append(after_steps(other, batches, 0.5)[1])
        # a mask on the whole slice [1, 0], which has one entry in a linear layer
        expected = (losses[0] - losses[1]) / (2 * step)
        torch.testing.assert_close(terms[name][at].sum(), expected, rtol=2e-4, atol=1e-9)


def test_first_order_is_the_first_weight_times_the_last_gradient():
    model = plain().double()
    asked = question(model)
    method = ProsPr(**SMALL, second_order=False, lr=0.5)
    batches = method._batches(asked)
    terms = method.terms(asked)
    trained, loss = after_steps(model, batches, 0.5)
    loss.backward()
    slopes = {name: p.grad for name, p in trained.named_parameters()}
    for name, start in model.named_parameters():
        torch.testing.assert_close(terms[name], start * slopes[name], rtol=1e-9, atol=1e-14)


def test_weights_that_are_held_at_zero_take_no_steps():
    model = plain(nn.Tanh).double()
    masks = {n: torch.rand(p.shape) < 0.6 for n, p in model.named_parameters() if p.dim() > 1}
    with torch.no_grad():
        for name, mask in masks.items():
            dict(model.named_parameters())[name].mul_(mask)
    asked = replace(question(model), live=masks)
    method = ProsPr(batch_size=24, steps=1, second_order=False, lr=0.5)
    batches, terms = method._batches(asked), method.terms(asked)
    trained, _ = after_steps(model, batches, 0.5)
    with torch.no_grad():
        for name, mask in masks.items():
            dict(trained.named_parameters())[name].mul_(mask)
    loss = cross_entropy(trained(batches[-1].args[0]), batches[-1].target)
    slopes = torch.autograd.grad(loss, list(trained.parameters()))
    for (name, start), slope in zip(model.named_parameters(), slopes, strict=True):
        torch.testing.assert_close(terms[name], start * slope, rtol=1e-9, atol=1e-14)


def test_both_orders_agree_as_the_steps_get_small_and_not_before():
    model = plain(nn.Tanh).double()

    def gap(lr):
        full = ProsPr(**SMALL, lr=lr).terms(question(model))["6.weight"]
        first = ProsPr(**SMALL, lr=lr, second_order=False).terms(question(model))["6.weight"]
        return ((full - first).norm() / full.norm()).item()

    assert gap(1e-6) < 1e-4
    assert gap(1.0) > 1e-2


def test_a_gate_on_a_filter_in_front_of_a_batchnorm_scores_from_the_first_step_on():
    model = jitter_norms(Normed(eps=1e-12)).double()
    asked = question(model)
    inner = next(g.index for g in asked.graph.groups if g.name == "inner")
    options = {"aggregation": "signed", "batch_size": 12}
    none = ProsPr(steps=0, **options).score(question(model))[inner].max()
    one = ProsPr(steps=1, **options).score(question(model))[inner].max()
    assert none < 1e-7 * one


def test_one_batch_for_all_steps_where_it_is_asked_for_or_there_are_no_more():
    asked = question(plain().double())
    assert len({id(b) for b in ProsPr(**SMALL, new_data=False)._batches(asked)}) == 1
    few = ProsPr(batch_size=24)._batches(asked)
    assert len(few) == 4
    assert few[0] is few[2]
    assert few[0] is not few[1]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"steps": -1}, "steps=-1; expected at least 0"),
        ({"lr": -0.1}, "lr=-0.1; expected at least 0"),
        ({"batch_size": 0}, "batch_size=0; expected at least 1"),
    ],
)
def test_options_that_do_not_fit_are_errors(options, text):
    with pytest.raises(errors.InputError, match=text):
        ProsPr(**options)


def test_the_callers_statistics_stay_as_they_are():
    model = jitter_norms(Normed())
    before = model.norm1.running_mean.clone()
    mipp.plan(model, data(dtype=torch.float32), "units=50%", method="prospr")
    assert torch.equal(model.norm1.running_mean, before)
