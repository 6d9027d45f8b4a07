"""Only Train Once, with HESSO: units that fade to zero and stay there."""

import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

import mipp
from mipp import errors, retrain
from mipp.methods import OTO, Training
from mipp.methods.oto import importance
from mipp.methods.shared.zero_groups import ZeroGroups

from .nets import Normed, jitter_norms, plain
from .runs import RECIPE, Spending, asked, pairs, plan, same_state

EARLY = {"start": 0.25, "pruning": 0.5, "rounds": 2}
"""Of eight steps: two plain, two periods of two steps, two plain."""


def zeros(question):
    groups = ZeroGroups(question.graph, question.model)
    return groups.sums([p.detach().abs() for p in groups.parameters]) == 0


def run(method, question, spending, recipe=RECIPE):
    """The trained net, and which units were zero after each step."""
    seen = []
    training = Training(pairs(), recipe, progress=lambda *_: seen.append(zeros(question)))
    return method.run(question, training, spending), seen


@pytest.mark.parametrize("make", [plain, Normed])
def test_the_net_with_zero_groups_computes_what_the_shrunk_one_does(make):
    made = plan(jitter_norms(make()), "units=40%", OTO(**EARLY))
    x = pairs()[0][0]
    whole, small = made.model.eval(), made.apply(refit=False).eval()
    torch.testing.assert_close(whole(x), small(x), rtol=1e-6, atol=1e-6)
    assert made.record.options["training"]["cost"]["epochs"] == RECIPE.epochs
    # the units are zero themselves, and not what reads them
    question = replace(asked(whole), model=whole)
    groups = ZeroGroups(question.graph, whole)
    kept = {
        g.index: np.isin(np.arange(g.n_units), made.keep[g.name]) for g in question.graph.groups
    }
    assert torch.equal(zeros(question), ~groups.in_one_row(kept))
    read = whole[-1] if make is plain else whole.head
    assert read.weight.abs().min() > 0


@pytest.mark.parametrize("make", [plain, Normed])
def test_a_zero_group_never_revives_and_each_period_takes_as_many(make):
    question = asked(jitter_norms(make()))
    n = sum(g.n_units for g in question.graph.groups)
    fast = replace(RECIPE, momentum=0.99)
    made, seen = run(OTO(**EARLY), question, Spending(n - 8), fast)
    counts = [int(zero.sum()) for zero in seen]
    assert counts == [0, 0, 0, 4, 4, 8, 8, 8]
    assert all((later >= earlier).all() for earlier, later in pairwise(seen))
    groups = ZeroGroups(question.graph, question.model)
    assert torch.equal(groups.in_one_row(made.keep), ~seen[-1])


def test_units_fade_by_equal_parts_over_the_steps_of_a_period():
    model = jitter_norms(Normed())
    question, spending = asked(model), Spending(5)
    groups = ZeroGroups(question.graph, question.model)
    before = groups.sums([p.detach().abs() for p in groups.parameters])
    left = []

    def look(*_):
        now = groups.sums([p.detach().abs() for p in groups.parameters])
        left.append(now / before)

    still = replace(RECIPE, peak_lr=1e-12, weight_decay=0.0)
    method = OTO(start=0.25, pruning=0.5, rounds=1)
    made = method.run(question, Training(pairs(), still, progress=look), spending)
    gone = ~groups.in_one_row(made.keep)
    for share, now in zip([1, 1, 3 / 4, 2 / 4, 1 / 4, 0, 0, 0], left, strict=True):
        torch.testing.assert_close(now[gone], torch.full_like(now[gone], share), rtol=0, atol=1e-5)
        torch.testing.assert_close(now[~gone], torch.ones_like(now[~gone]), rtol=0, atol=1e-5)


def test_with_nothing_to_remove_it_is_plain_training_to_the_bit():
    model = jitter_norms(Normed())
    made = plan(model, "units=100%", OTO(**EARLY))
    expected = copy.deepcopy(model)
    retrain.train(expected, pairs(), RECIPE, progress=False)
    assert same_state(made.model, expected)


def test_the_score_is_the_sum_of_five_normalised_ones():
    model = torch.nn.Sequential(
        torch.nn.Linear(32, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)
    ).double()
    traced = mipp.graph.trace(model, (torch.randn(4, 32, dtype=torch.float64),))
    groups = ZeroGroups(traced, model)
    x = groups.copies()
    d = [torch.randn_like(p) for p in x]
    weights = (0.1, 0.2, 0.3, 0.4, 0.5)
    found = importance(groups, x, d, weights)
    rows = torch.cat([model[0].weight, model[0].bias[:, None]], 1).detach()
    names = dict(zip((p.data_ptr() for p in groups.parameters), d, strict=True))
    along = torch.cat(
        [names[model[0].weight.data_ptr()], names[model[0].bias.data_ptr()][:, None]], 1
    )
    norm, inner = rows.norm(dim=1), (rows * along).sum(1)
    cosine = torch.nn.functional.cosine_similarity(rows, along)
    parts = [norm, norm / 33, cosine + 1, inner.abs(), inner**2 / 2]
    expected = sum(w * part / part.norm() for w, part in zip(weights, parts, strict=True))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_groups_hold_weights_bias_norms_and_all_producers_of_a_residual():
    model = jitter_norms(Normed())
    question = asked(model)
    groups = ZeroGroups(question.graph, model)
    sizes = {g.name: groups.by_group(groups.sizes)[g.index] for g in question.graph.groups}
    assert {name: set(values.tolist()) for name, values in sizes.items()} == {
        "inner": {5 * 9 + 2},
        # first and its norm, outer and its bias
        "first": {2 * 9 + 2 + 7 + 1},
    }


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"start": -0.1}, "start=-0.1 and pruning=0.1; expected shares"),
        ({"start": 0.5, "pruning": 0.6}, "start=0.5 and pruning=0.6; expected shares"),
    ],
)
def test_options_that_do_not_fit_are_errors(options, text):
    with pytest.raises(errors.InputError, match=text):
        OTO(**options)


def test_a_training_with_fewer_steps_than_periods_is_refused():
    with pytest.raises(errors.InputError, match=r"rounds=10 periods .* the training has 8 steps"):
        plan(Normed(), "units=50%", OTO())
