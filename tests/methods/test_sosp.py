"""SOSP-H: the Hessian product, what it is taken along, and how the orders are put together."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import mipp
from mipp import errors
from mipp.methods import SOSP, Question
from mipp.methods.shared.iterative import workable
from mipp.records import ChannelGraph

from .nets import Normed, data, everything, jitter_norms, plain, question, some

ALL = {"examples": None, "batch_size": 20}


def along_units(model, asked, own=False):
    """theta: the weights of all units that can go, zero elsewhere, by hand for `plain`."""
    theta = {}
    for name, parameter in model.named_parameters():
        taken = parameter.dim() > 1 or own
        theta[name] = parameter.detach() * (taken and not name.startswith("8"))
    return theta


def slopes(model, x, y):
    found = torch.autograd.grad(cross_entropy(model(x), y), list(model.parameters()))
    return dict(zip(dict(model.named_parameters()), found, strict=True))


def moved(model, direction, step):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            parameter.add_(direction[name], alpha=step)
    return other


@pytest.mark.parametrize("own", [False, True])
def test_the_product_is_that_of_finite_differences_and_the_scores_are_the_formula(own):
    model = plain(nn.Tanh).double()
    x, y = everything(data())
    asked = question(model)
    theta = along_units(model, asked, own)
    up, down = (slopes(moved(model, theta, s), x, y) for s in (1e-4, -1e-4))
    first, second = SOSP(**ALL, own=own).orders(asked)
    flat = slopes(model, x, y)
    for name, parameter in model.named_parameters():
        bent = (up[name] - down[name]) / 2e-4
        torch.testing.assert_close(first[name], parameter * flat[name], rtol=1e-9, atol=1e-14)
        torch.testing.assert_close(second[name], parameter * bent, rtol=1e-5, atol=1e-9)
    signed = SOSP(**ALL, own=own).score(question(model))
    summed = SOSP(**ALL, own=own, aggregation="l1").score(question(model))
    names = ("6.weight", "6.bias") if own else ("6.weight",)
    rows = [[order[n].reshape(6, -1) for n in names] for order in (first, second)]
    one, two = (torch.cat(parts, 1).detach() for parts in rows)
    np.testing.assert_allclose(
        signed[0], (one.sum(1).abs() + two.sum(1).abs() / 2).numpy(), rtol=1e-9
    )
    np.testing.assert_allclose(summed[0], (one.abs() + two.abs() / 2).sum(1).numpy(), rtol=1e-9)


def test_a_quadratic_loss_is_expanded_exactly():
    """Without the second layer's nonlinearity the loss is a quadratic of the first layer."""
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Linear(5, 2, bias=False)).double()
    x, t = torch.randn(32, 4).double(), torch.randn(32, 2).double()
    batches = mipp.statistics.read_batches([(x, t)])
    asked = question(model, batches)
    first, second = SOSP(**ALL).orders(asked)

    def loss(scale):
        hidden = x @ (scale * model[0].weight.detach()).T
        return (hidden @ model[1].weight.detach().T - t).square().mean()

    # all units gone: L(0) - L(1) = -theta'g + theta'H theta / 2
    change = -first["0.weight"].sum() + second["0.weight"].sum() / 2
    torch.testing.assert_close(change, loss(0.0) - loss(1.0), rtol=1e-9, atol=1e-12)


def test_only_units_that_are_left_are_in_the_product():
    model = plain(nn.Tanh).double()
    keep = some(question(model).graph)
    asked = question(model, keep=keep)
    first, second = SOSP(**ALL).orders(asked)
    gone = torch.from_numpy(~keep[0])
    assert (first["6.weight"][gone] == 0).all()
    assert (second["6.weight"][gone] == 0).all()
    assert (second["6.weight"][~gone] != 0).any()


def test_signed_scores_vanish_in_front_of_a_batchnorm_in_train_mode_only():
    model = jitter_norms(Normed(eps=1e-12)).double()
    asked = question(model)
    inner = next(g.index for g in asked.graph.groups if g.name == "inner")
    scores = {
        (norms, how): SOSP(examples=None, batch_size=64, norms=norms, aggregation=how)
        .score(question(model))[inner]
        .max()
        for norms in ("train", "eval")
        for how in ("signed", "l1")
    }
    assert scores["train", "signed"] < 1e-8 * scores["train", "l1"]
    assert scores["eval", "signed"] > 1e-2 * scores["eval", "l1"]


def test_the_absolute_values_of_both_orders_are_added_not_their_difference():
    torch.manual_seed(1)
    model = plain().double()
    scores = SOSP(**ALL).score(question(model))
    first, _ = SOSP(**ALL).orders(question(model))
    assert (scores[0] >= first["6.weight"].sum(1).abs().detach().numpy() - 1e-15).all()


def test_single_weights_are_scored_along_all_weights_of_layers():
    model = plain(nn.Tanh).double()
    x, y = everything(data())
    alone = Question(model, ChannelGraph((), (), {}, (), {}, ()), data())
    scores = SOSP(**ALL).weight_scores(workable(alone))
    theta = {n: p.detach() * (p.dim() > 1) for n, p in model.named_parameters()}
    up, down = (slopes(moved(model, theta, s), x, y) for s in (1e-4, -1e-4))
    first = slopes(model, x, y)
    for name, parameter in model.named_parameters():
        bent = (up[name] - down[name]) / 2e-4
        expected = (parameter * first[name]).abs() + (parameter * bent).abs() / 2
        torch.testing.assert_close(scores[name], expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("option", ["examples", "batch_size"])
def test_options_that_do_not_fit_are_errors(option):
    with pytest.raises(errors.InputError, match=f"{option}=0; expected at least 1"):
        SOSP(**{option: 0})
