"""Taylor-FO: gates written out, and the same by weights."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import mipp
from mipp import errors
from mipp.methods import SNIP, Taylor

from .nets import Normed, data, jitter_norms, plain, question, unchecked


def halves():
    return [batch.part(start, start + 10) for batch in data() for start in range(0, len(batch), 10)]


def test_a_gate_score_is_the_mean_of_squared_gradients_of_explicit_gates():
    model = plain().double()
    expected = []
    for batch in halves():
        gates = torch.ones(6, dtype=torch.float64, requires_grad=True)
        output = model[8](model[:8](batch.args[0]) * gates)
        expected.append(torch.autograd.grad(cross_entropy(output, batch.target), gates)[0] ** 2)
    scores = Taylor(minibatch=10).score(question(model))
    np.testing.assert_allclose(scores[0], torch.stack(expected).mean(0).numpy(), rtol=1e-9)


@pytest.mark.parametrize("variant", ["joint", "separate", "absolute"])
def test_by_weights_the_products_of_each_minibatch_are_put_together_and_then_averaged(variant):
    model = plain().double()
    together = {
        "joint": lambda terms: terms.sum(1) ** 2,
        "separate": lambda terms: (terms**2).sum(1),
        "absolute": lambda terms: terms.abs().sum(1),
    }[variant]
    expected = []
    for batch in halves():
        loss = cross_entropy(model(batch.args[0]), batch.target)
        slope = torch.autograd.grad(loss, model[3].weight)[0]
        expected.append(together((slope * model[3].weight.detach()).flatten(1)))
    asked = question(model)
    group = next(g.index for g in asked.graph.groups if g.name == "3")
    scores = Taylor(variant=variant, minibatch=10).score(asked)[group]
    np.testing.assert_allclose(scores, torch.stack(expected).mean(0).numpy(), rtol=1e-9)


def test_absolute_values_of_one_minibatch_are_snip_in_evaluation_mode():
    model, batches = jitter_norms(Normed()).double(), data()[1:]
    ours = Taylor(variant="absolute", minibatch=1000).score(question(model, batches))
    snip = SNIP(examples=None, batch_size=1000, norms="eval").score(question(model, batches))
    for index, values in snip.items():
        np.testing.assert_allclose(ours[index], values, rtol=1e-9)


def test_a_shift_behind_a_batchnorm_is_gated_too_but_not_part_of_the_weights():
    model = jitter_norms(Normed()).double()
    asked = question(model)
    inner = next(g.index for g in asked.graph.groups if g.name == "inner")
    gate, joint = (
        Taylor(variant=variant, minibatch=1000).score(question(model))[inner]
        for variant in ("gate", "joint")
    )
    assert not np.allclose(gate, joint, rtol=1e-2)


def test_weights_that_the_loss_does_not_know_have_no_slope():
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.head, self.other = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 2)

        def forward(self, x):
            x = self.hidden(x).relu()
            return self.head(x), self.other(x)

    def first(output, target):
        return cross_entropy(output[0], target, reduction="sum")

    model, x, y = TwoHeads(), torch.randn(12, 4), torch.arange(12) % 3
    batches = mipp.statistics.read_batches([(x, y)])
    alone = nn.Sequential(model.hidden, nn.ReLU(), model.head)
    both = Taylor().score(question(model, batches, loss=first))[0]
    np.testing.assert_allclose(both, Taylor().score(question(alone, batches))[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"minibatch": 0}, "minibatch=0; expected at least 1"),
        ({"variant": "best"}, "variant='best'; expected one of 'gate', 'joint'"),
    ],
)
def test_options_that_do_not_fit_are_errors(options, text):
    with pytest.raises(errors.InputError, match=text), unchecked():
        Taylor(**options)
