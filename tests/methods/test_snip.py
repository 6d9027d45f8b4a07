"""SNIP: the gradient of an explicit mask."""

import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import mipp
from mipp import errors
from mipp.methods import SNIP, IterSNIP, ProsPr

from .nets import Normed, data, everything, jitter_norms, plain, question, unchecked, wide


def mask_gradients(model, mode):
    """dL/dc at c = 1, c a mask on every parameter, over all examples at once."""
    x, y = everything(data())
    model.train(mode == "train")
    ones = {n: torch.ones_like(p).requires_grad_() for n, p in model.named_parameters()}
    masked = {n: p.detach() * ones[n] for n, p in model.named_parameters()}
    loss = cross_entropy(functional_call(model, masked, (x,)), y)
    return dict(zip(ones, torch.autograd.grad(loss, list(ones.values())), strict=True))


@pytest.mark.parametrize("norms", ["train", "eval"])
@pytest.mark.parametrize("make", [plain, Normed])
def test_weight_scores_are_the_absolute_gradient_of_a_mask(make, norms):
    model = jitter_norms(make()).double()
    method = SNIP(examples=None, batch_size=64, norms=norms)
    scores = method.weight_scores(question(model))
    for name, expected in mask_gradients(model, norms).items():
        torch.testing.assert_close(scores[name], expected.abs(), rtol=1e-9, atol=1e-14)


def test_gradients_are_averaged_before_the_absolute_value():
    model = plain().double()
    whole = SNIP(examples=None, batch_size=64).score(question(model))
    pieces = SNIP(examples=None, batch_size=7).score(question(model))
    for index, expected in whole.items():
        np.testing.assert_allclose(pieces[index], expected, rtol=1e-9)


def test_units_in_front_of_a_batchnorm_have_no_signed_score_in_train_mode():
    model = jitter_norms(Normed(eps=1e-12)).double()
    options = {"examples": None, "batch_size": 64}
    signed = SNIP(**options, aggregation="signed").score(question(model))
    summed = SNIP(**options).score(question(model))
    inner = next(g.index for g in question(model).graph.groups if g.name == "inner")
    assert signed[inner].max() < 1e-9 * summed[inner].max()
    gate = SNIP(**options, aggregation="signed", norms="eval").score(question(model))
    assert gate[inner].max() > 1e-3 * summed[inner].max()


def test_a_signed_score_is_the_gradient_of_a_gate_on_the_unit():
    model = plain().double()
    gates = torch.ones(6, dtype=torch.float64, requires_grad=True)
    x, y = everything(data())
    hidden = model[:7](x) * gates  # in front of the last ReLU
    expected = torch.autograd.grad(cross_entropy(model[8](hidden.relu()), y), gates)[0].abs()
    method = SNIP(examples=None, aggregation="signed", own=True)
    scores = method.score(question(model))[0]  # groups count from the outputs
    np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-9)


def test_itersnip_in_one_round_is_snip_and_in_more_it_is_not():
    model, batches = wide(), data(dtype=torch.float32)
    keeps = [
        mipp.plan(model, batches, "units=30%", method=method).keep
        for method in (SNIP(), IterSNIP(rounds=1), IterSNIP(rounds=12))
    ]
    assert keeps[0] == keeps[1] != keeps[2]


@pytest.mark.parametrize(("model", "fits"), [(Normed(), False), (plain(), True)])
def test_statistics_of_a_single_example_are_refused(model, fits):
    one = data(dtype=torch.float32)[0].part(0, 1)
    asked = question(model, data(dtype=torch.float32))
    asked.batches[:] = [one]
    for method in (SNIP(), ProsPr()):
        if fits:
            method.score(asked)
            continue
        with pytest.raises(errors.InputError, match="norms='train' needs batches of two examples"):
            method.score(asked)


def test_targets_that_do_not_fit_the_output_are_refused():
    model, batches = plain(), [(x, torch.randn(len(x), 2)) for x in torch.randn(2, 16, 2, 4, 4)]
    with pytest.raises(errors.InputError, match=r"gives \[\(32, 3\)\] for targets \(32, 2\)"):
        mipp.plan(model, batches, "units=50%", method="snip")


def test_regression_and_a_loss_of_ones_own_are_differentiated():
    model = plain()
    x, t = torch.randn(32, 2, 4, 4), torch.randn(32, 3)
    squared = mipp.plan(model, [(x, t)], "units=50%", method="snip")

    def own(output, target):
        return (output - target).square().sum() / 3

    assert mipp.plan(model, [(x, t)], "units=50%", method="snip", loss=own).keep == squared.keep
    # a loss that asks for no target makes do without
    free = mipp.plan(model, [x], "units=50%", method="snip", loss=lambda o, _: o.square().sum())
    assert free.after.units <= 8


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"examples": 0}, "examples=0; expected at least 1"),
        ({"batch_size": 0}, "batch_size=0; expected at least 1"),
        ({"norms": "frozen"}, "norms='frozen'; expected one of 'train', 'eval'"),
        ({"aggregation": "max"}, "aggregation='max'; expected one of 'l1', 'mean'"),
    ],
)
def test_options_that_do_not_fit_are_errors(options, text):
    with pytest.raises(errors.InputError, match=text), unchecked():
        SNIP(**options)
