"""Only Train Once, with DHSPG: half-space projections onto zero."""

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import mipp
from mipp import errors, retrain
from mipp.methods import DHSPG, Training
from mipp.methods.dhspg import _Pulling, penalties
from mipp.methods.shared.zero_groups import ZeroGroups

from .nets import Normed, jitter_norms, plain
from .runs import RECIPE, Spending, asked, pairs, plan, same_state
from .test_oto import run, zeros

STRONG = {"start": 0.25, "penalty": 3.0}
"""Strong enough that eight steps do what takes hundreds of epochs with the authors' number."""


@pytest.mark.parametrize("make", [plain, Normed])
def test_the_net_with_zero_groups_computes_what_the_shrunk_one_does(make):
    made = plan(jitter_norms(make()), "units=60%", DHSPG(**STRONG))
    assert made.record.options["training"]["notes"] == {"cut_at_end": 0}
    x = pairs()[0][0]
    whole, small = made.model.eval(), made.apply(refit=False).eval()
    torch.testing.assert_close(whole(x), small(x), rtol=1e-6, atol=1e-6)
    kept = sum(len(units) for units in made.keep.values())
    question = replace(asked(whole), model=whole)
    assert int((~zeros(question)).sum()) == kept == int(0.6 * made.before.units)
    read = whole[-1] if make is plain else whole.head
    assert read.weight.abs().min() > 0


def test_a_zero_group_never_revives_and_not_one_too_many_is_projected():
    question, spending = asked(jitter_norms(Normed())), Spending(7)
    recipe = replace(RECIPE, momentum=0.99)
    made, seen = run(DHSPG(**STRONG, tolerance=0.3), question, spending, recipe)
    n = sum(g.n_units for g in question.graph.groups)
    counts = [int(zero.sum()) for zero in seen]
    assert counts[:2] == [0, 0]
    assert counts[-1] == n - 7
    assert all((later >= earlier).all() for earlier, later in pairwise(seen))
    groups = ZeroGroups(question.graph, question.model)
    assert torch.equal(groups.in_one_row(made.keep), ~seen[-1])
    assert made.notes["cut_at_end"] == 0


def test_what_the_training_does_not_reach_is_cut_at_its_end_and_said():
    made = plan(jitter_norms(Normed()), "units=50%", DHSPG())
    assert made.after.units == 6
    assert made.record.options["training"]["notes"] == {"cut_at_end": 6}


def test_with_nothing_to_remove_it_is_plain_training_to_the_bit():
    model = jitter_norms(Normed())
    made = plan(model, "units=100%", DHSPG(**STRONG))
    expected = copy.deepcopy(model)
    retrain.train(expected, pairs(), RECIPE, progress=False)
    assert same_state(made.model, expected)


def test_a_pull_turns_towards_zero_and_still_goes_down():
    torch.manual_seed(0)
    x, d = torch.randn(200, 5, dtype=torch.float64), torch.randn(200, 5, dtype=torch.float64)
    norm, slope, inner = x.norm(dim=1), d.norm(dim=1), (x * d).sum(1)
    c = penalties(DHSPG(penalty=1e-6, most=1e9), norm, slope, inner)
    away = inner < 0
    assert 50 < away.sum() < 150
    way = d + c[:, None] * x / norm[:, None]
    assert ((x * way).sum(1) > -1e-9)[away].all()
    assert ((d * way).sum(1) > -1e-9)[away].all()
    assert (c[~away] == 1e-6).all()
    twice = -2 * inner / norm
    assert (torch.isclose(c, twice) | (c < twice))[away].all()
    assert torch.isclose(c, twice)[away].any()
    bounded = penalties(DHSPG(), norm, slope, inner)
    assert bounded.min() == 1e-3
    assert (bounded <= torch.maximum(torch.tensor(1e-2), c)).all()


def test_a_step_is_sgd_with_a_pull_and_the_half_space_test():
    model = jitter_norms(Normed())
    question = asked(model)
    groups = ZeroGroups(question.graph, question.model)
    pulling = _Pulling(DHSPG(start=0, penalty=0.5, tolerance=0), groups, Spending(5), 0)
    optimizer = torch.optim.SGD(question.model.parameters(), lr=0.1)
    for parameter in question.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    x = groups.copies()
    norm = groups.sums([p.square() for p in x]).sqrt()
    pulling.step(optimizer)
    on = pulling._penalised
    assert int(on.sum()) == 12 - 5
    now = groups.sums([p.detach().square() for p in groups.parameters]).sqrt()
    expected = torch.where(on, norm - 0.1 * 0.5, norm)
    gone = on & (expected * norm < 0.95 * norm.square())
    assert torch.equal(~pulling.stays, gone)
    torch.testing.assert_close(now, torch.where(gone, 0.0, expected), rtol=1e-5, atol=1e-6)


def test_small_units_are_penalised_before_large_ones():
    model = jitter_norms(Normed())
    with torch.no_grad():
        for parameter in (model.inner.weight, model.norm2.weight, model.norm2.bias):
            parameter[2:5] *= 1e-3
    question = asked(model)
    groups = ZeroGroups(question.graph, question.model)
    pulling = _Pulling(DHSPG(tolerance=0), groups, Spending(9), 0)
    x = groups.copies()
    norm = groups.sums([p.square() for p in x]).sqrt()
    redundant = groups.by_group(pulling._redundant(norm, norm, torch.zeros_like(norm)))
    inner = next(g.index for g in question.graph.groups if g.name == "inner")
    assert redundant[inner].nonzero()[0].tolist() == [2, 3, 4]
    assert sum(units.sum() for units in redundant.values()) == 3
    more = _Pulling(DHSPG(tolerance=0.25), groups, Spending(9), 0)
    wider = groups.by_group(more._redundant(norm, norm, torch.zeros_like(norm)))
    assert wider[inner].sum() == 6  # the group keeps one, and the other loses none
    assert sum(units.sum() for units in wider.values()) == 6


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rounds": 2}, "rounds=2; it ranks once"),
        ({"epsilon": 1.0}, "epsilon=1.0; expected numbers below 1"),
        ({"penalty": -1}, "penalty=-1; expected at least 0"),
        ({"most": 0.5}, "most=0.5; expected at least 1"),
    ],
)
def test_options_that_do_not_fit_are_errors(options, text):
    with pytest.raises(errors.InputError, match=text):
        DHSPG(**options)


def test_progress_is_told():
    told = []
    made = mipp.plan(
        Normed(), pairs(), "units=50%", method=DHSPG(), training=Training(pairs(), RECIPE),
        progress=lambda stage, done, total: told.append((stage, done, total)),
    )  # fmt: skip
    assert [step for step in told if step[0] == "train"] == [("train", n, 8) for n in range(1, 9)]
    assert made.seconds["train"] > 0
