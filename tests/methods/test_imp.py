"""Iterative magnitude pruning: what goes back to where, and what each round is."""

import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

import mipp
from mipp import errors, graph, retrain
from mipp.methods import IMP, L1, L2, Training
from mipp.methods.shared.training import Trainer, narrowed, put_back

from .nets import Normed, jitter_norms, plain, some, unchecked
from .runs import RECIPE, Spending, asked, pairs, plan, same_state


def by_hand(model, recipe):
    trained = copy.deepcopy(model)
    retrain.train(trained, pairs(), recipe, progress=False)
    return trained


def test_the_survivors_are_rewound_to_the_very_weights_that_were_given():
    model = jitter_norms(Normed())
    made = plan(model, "units=40%", IMP(rounds=2, last_training=False))
    assert same_state(made.model, model)
    chosen = mipp.Plan(made.record, model).apply()
    assert same_state(made.apply(refit=False), chosen)
    untrained = mipp.plan(model, pairs(), "units=40%", method=L2(), allocation="global")
    assert made.keep != untrained.keep


def test_early_rewinding_goes_back_to_the_weights_after_the_first_epochs():
    model = jitter_norms(Normed())
    method = IMP(rounds=2, rewind="early", early_epochs=2, last_training=False)
    made = plan(model, "units=40%", method)
    assert same_state(made.model, by_hand(model, replace(RECIPE, epochs=2)))
    assert not same_state(made.model, model)


def test_a_round_is_to_train_what_is_left_anew_from_the_rewound_weights():
    model = jitter_norms(Normed())
    made = plan(model, "units=50%", IMP(rounds=1))
    trained = by_hand(model, RECIPE)
    norms = mipp.plan(trained, pairs(), "units=50%", method=L2(), allocation="global")
    assert made.keep == norms.keep
    small = mipp.Plan(made.record, model).apply(refit=False)
    assert same_state(made.apply(refit=False), by_hand(small, RECIPE))


def test_what_is_removed_stays_as_it_was_while_the_rest_is_trained():
    model = jitter_norms(Normed())
    question = asked(model)
    question = replace(question, keep=some(question.graph))
    small = narrowed(question.model, question.graph, question.keep)
    Trainer(question, Training(pairs(), RECIPE), 4).train(question.model, question.keep, RECIPE)
    again = narrowed(question.model, question.graph, question.keep)
    assert same_state(again, by_hand(small, RECIPE))
    before, after = model.state_dict(), question.model.state_dict()
    for key, axis in question.graph.axes.items():
        gone = np.flatnonzero(~axis.kept(question.keep))
        for state in (before, after):
            state[key.tensor] = state[key.tensor].index_select(key.dim, torch.from_numpy(gone))
        assert torch.equal(before[key.tensor], after[key.tensor])
        before, after = model.state_dict(), question.model.state_dict()
    assert not torch.equal(before["head.weight"], after["head.weight"])


def test_a_small_net_is_put_back_where_it_was_taken_from():
    model = jitter_norms(Normed())
    question = asked(model)
    keep = some(question.graph)
    kept = mipp.surgery.kept_indices(question.graph, keep)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in (*other.parameters(), *other.buffers()):
            tensor.add_(1)
    put_back(other, narrowed(model, question.graph, keep), kept, question.graph.aliases)
    assert same_state(narrowed(other, question.graph, keep), narrowed(model, question.graph, keep))
    assert not same_state(other, model)


def test_masks_are_nested_and_their_counts_follow_the_schedule():
    question, spending = asked(jitter_norms(Normed())), Spending(4)
    whole = sum(g.n_units for g in question.graph.groups)
    made = IMP(rounds=4).run(question, Training(pairs(), replace(RECIPE, epochs=1)), spending)
    assert spending.shares == [0.25, 0.5, 0.75, 1.0]
    counts = [sum(int(units.sum()) for units in keep.values()) for keep in spending.keeps]
    assert counts == [round(whole * (4 / whole) ** (k / 4)) for k in (1, 2, 3, 4)]
    for earlier, later in pairwise(spending.keeps):
        assert all((later[g] <= earlier[g]).all() for g in later)
    assert all((made.keep[g] == spending.keeps[-1][g]).all() for g in made.keep)


def test_norms_count_only_what_is_left():
    question = asked(plain())
    question = replace(question, keep=some(question.graph))
    method = IMP(aggregation="l1", own=True, normalise="mean")
    scores = method._norms(question, question.model)
    masked = mipp.surgery.mask_model(question.model, question.graph, question.keep)
    expected = L1(own=True, normalise="mean").score(replace(question, model=masked))
    unmasked = L1(own=True, normalise="mean").score(question)
    for index, values in expected.items():
        np.testing.assert_array_equal(scores[index], values)
    assert any((unmasked[i] != expected[i]).any() for i in expected)


def test_without_rewinding_a_trained_net_is_pruned_first_and_then_fine_tuned():
    model = by_hand(jitter_norms(Normed()), RECIPE)
    once = plan(model, "units=50%", IMP(rounds=1, rewind="none", last_training=False))
    norms = mipp.plan(model, pairs(), "units=50%", method=L2(), allocation="global")
    assert once.keep == norms.keep
    assert same_state(once.model, model)
    assert once.record.options["training"]["cost"]["epochs"] == 0
    tuned = plan(model, "units=50%", IMP(rounds=1, rewind="none"))
    slower = replace(RECIPE, peak_lr=RECIPE.peak_lr / 5)
    assert same_state(tuned.apply(refit=False), by_hand(norms.apply(refit=False), slower))
    twice = plan(model, "units=50%", IMP(rounds=2, rewind="none"))
    assert twice.record.options["training"]["cost"]["epochs"] == 2 * (4 // 2)


def test_all_training_is_counted_at_the_widths_that_it_was_done_in():
    question, spending = asked(Normed()), Spending(6)
    told = []
    training = Training(pairs(), RECIPE, progress=lambda done, steps: told.append((done, steps)))
    cost = IMP(rounds=2).run(question, training, spending).cost
    widths = [{}, *spending.keeps]
    assert (cost.epochs, cost.steps, cost.examples) == (12, 24, 12 * 48)
    assert cost.macs == sum(4 * 48 * graph.cost(question.graph, keep).macs for keep in widths)
    assert told == [(n, 24) for n in range(1, 25)]


def test_the_plan_says_what_training_it_took():
    made = plan(Normed(), "units=50%", IMP(rounds=1, epochs=1, peak_lr=0.01))
    said = made.record.options["training"]
    assert said["cost"]["epochs"] == 2
    assert said["cost"]["steps"] == 4
    assert said["recipe"]["epochs"] == RECIPE.epochs
    assert made.record.options["method_options"]["epochs"] == 1
    assert made.seconds["train"] > 0
    assert mipp.Plan.from_json(made.to_json()).record.options["training"]["cost"] == said["cost"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"epochs": 0}, "epochs=0; expected at least 1"),
        ({"early_epochs": 0}, "early_epochs=0; expected at least 1"),
        ({"rewind": "late"}, "rewind='late'; expected one of 'initial', 'early', 'none'"),
    ],
)
def test_options_that_do_not_fit_are_errors(options, text):
    with unchecked(), pytest.raises(errors.InputError, match=text):
        IMP(**options)


def test_early_weights_must_come_before_the_end_of_training():
    with pytest.raises(errors.InputError, match="early_epochs=4, and one training has 4 epochs"):
        plan(Normed(), "units=50%", IMP(rewind="early", early_epochs=4))


def test_batches_without_length_are_refused():
    training = Training(iter(pairs()), RECIPE)
    with pytest.raises(errors.InputError, match=r"training= has batches of type .* without length"):
        IMP().run(asked(Normed()), training, Spending(6))
