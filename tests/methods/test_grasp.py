"""GraSP: the Hessian times the gradient, and which way the sign goes."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import mipp
from mipp import errors
from mipp.methods import GraSP, IterGraSP
from mipp.methods.shared.gradients import gradient

from .nets import Normed, data, everything, jitter_norms, plain, question, unchecked, wide

ALL = {"per_class": None, "examples": 48, "temperature": 1.0}


def slopes(model, x, y):
    """Of the weights of layers, and zero for all else, which is no part of the flow."""
    loss = cross_entropy(model(x), y)
    found = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
    named = dict(model.named_parameters())
    return {n: g * (p.dim() > 1) for (n, p), g in zip(named.items(), found, strict=True)}


def moved(model, direction, step):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            parameter.add_(direction[name], alpha=step)
    return other


def through_weights(model, slopes_of):
    """Nothing for biases and norm parameters."""
    named = dict(model.named_parameters())
    return {name: s if named[name].dim() > 1 else 0 * s for name, s in slopes_of.items()}


def test_the_terms_are_weight_times_hessian_times_gradient_by_weights_alone():
    model = plain(nn.Tanh).double()
    x, y = everything(data())
    terms = GraSP(**ALL, norms="eval").terms(question(model))
    first = through_weights(model, slopes(model, x, y))
    up, down = (slopes(moved(model, first, s), x, y) for s in (1e-4, -1e-4))
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            continue
        bent = (up[name] - down[name]) / 2e-4
        torch.testing.assert_close(terms[name], parameter * bent, rtol=1e-5, atol=1e-9)


def test_dropping_the_lowest_scores_raises_the_gradient_norm_and_the_highest_lower_it():
    torch.manual_seed(2)
    model = plain(nn.Tanh).double()
    x, y = everything(data())
    scores = GraSP(**ALL, norms="eval").weight_scores(question(model))
    flat = torch.cat([scores[n].flatten() for n, p in model.named_parameters() if p.dim() > 1])
    n = len(flat) // 50
    low, high = flat.sort().values[n], flat.sort().values[-n]

    def flow(keep):
        other = copy.deepcopy(model)
        with torch.no_grad():
            for name, p in other.named_parameters():
                if p.dim() > 1:
                    p.mul_(keep(scores[name]))
        weights = through_weights(other, slopes(other, x, y))
        return sum(g.square().sum() for g in weights.values()).item()

    whole = flow(torch.ones_like)
    assert flow(lambda s: s > low) > whole > flow(lambda s: s < high)


def test_summed_over_a_filter_in_front_of_a_batchnorm_it_is_minus_its_squared_gradient():
    model = jitter_norms(Normed(eps=1e-12)).double()
    asked = question(model)
    inner = next(g.index for g in asked.graph.groups if g.name == "inner")
    # one batch: statistics are those of all examples
    one = GraSP(per_class=None, examples=3, temperature=1.0, aggregation="sum")
    scores = one.score(asked)[inner]
    batches = one._halves(asked)
    assert len(batches) == 1
    squares = gradient(asked, batches)["inner.weight"].square().sum((1, 2, 3))
    np.testing.assert_allclose(scores, -squares.numpy(), rtol=1e-6)


def test_the_other_reading_is_the_squared_gradient():
    model = plain().double()
    x, y = everything(data())
    scores = GraSP(**ALL, reading="gradient", norms="eval").weight_scores(question(model))
    for name, slope in slopes(model, x, y).items():
        if slope.dim() > 1:
            torch.testing.assert_close(scores[name], slope.square(), rtol=1e-9, atol=1e-15)


def test_examples_are_balanced_over_the_classes_and_put_in_two_batches():
    asked = question(plain().double())
    halves = GraSP(per_class=5)._halves(asked)
    assert [len(half) for half in halves] == [8, 7]
    labels = torch.cat([half.target for half in halves])
    assert torch.bincount(labels).tolist() == [5, 5, 5]


def test_a_hot_softmax_changes_the_loss_but_hardly_the_order():
    model = plain().double()
    terms = [GraSP(temperature=t).terms(question(model))["0.weight"] for t in (1.0, 200.0)]
    assert terms[0].abs().max() > 100 * terms[1].abs().max()


def test_itergrasp_asks_again_in_every_round():
    model, batches = wide(), data(dtype=torch.float32)
    keeps = [
        mipp.plan(model, batches, "units=30%", method=method).keep
        for method in (
            GraSP(), IterGraSP(rounds=1), IterGraSP(rounds=12),
            IterGraSP(rounds=12, reading="gradient"),
        )
    ]  # fmt: skip
    assert keeps[0] == keeps[1]
    assert len({str(keep) for keep in keeps}) == 3


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"per_class": 0}, "per_class=0; expected at least 1"),
        ({"examples": 0}, "examples=0; expected at least 1"),
        ({"temperature": 0.0}, r"temperature=0.0; expected at least 1e-06"),
        ({"reading": "A"}, "reading='A'; expected one of 'flow', 'gradient'"),
    ],
)
def test_options_that_do_not_fit_are_errors(options, text):
    with pytest.raises(errors.InputError, match=text), unchecked():
        GraSP(**options)


def test_weights_that_are_held_at_zero_take_no_part_in_the_gradient():
    model = plain(nn.Tanh).double()
    generator = torch.Generator().manual_seed(5)
    masks = {
        name: torch.rand(p.shape, generator=generator) < 0.6
        for name, p in model.named_parameters()
        if p.dim() > 1
    }
    with torch.no_grad():
        for name, mask in masks.items():
            dict(model.named_parameters())[name].mul_(mask)
    x, y = everything(data())
    asked = replace(question(model), live=masks)
    terms = GraSP(**ALL, norms="eval").terms(asked)
    first = through_weights(model, slopes(model, x, y))
    first = {n: g * masks.get(n, 1) for n, g in first.items()}
    up, down = (slopes(moved(model, first, s), x, y) for s in (1e-4, -1e-4))
    for name in masks:
        bent = (up[name] - down[name]) / 2e-4
        parameter = dict(model.named_parameters())[name]
        torch.testing.assert_close(terms[name], parameter * bent, rtol=1e-5, atol=1e-9)
    squares = GraSP(**ALL, norms="eval", reading="gradient").terms(asked)
    assert all((squares[name][~mask] == 0).all() for name, mask in masks.items())
