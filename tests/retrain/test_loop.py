"""The training loop: learns, repeats bit for bit, leaves everything else as it was."""

import copy
import math
import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mipp import data, models
from mipp.errors import InputError, TrainingError
from mipp.retrain import Recipe, evaluate, recipe_for, train
from mipp.retrain.loop import loss_of

SHORT = Recipe(epochs=2, peak_lr=0.05, batch_size=32)


def same_weights(a, b):
    mine, other = a.state_dict(), b.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[k], other[k]) for k in mine)


def test_digits_are_learnt():
    recipe = replace(recipe_for("digits_cnn"), epochs=12)
    split = {name: data.load("digits", name) for name in ("train", "test")}
    model = models.build("digits_cnn", seed=0)
    batches = data.Batches(split["train"], recipe.batch_size, shuffle=True, drop_last=True)
    test = data.Batches(split["test"], 256)
    before = evaluate(model, test)
    history = train(model, batches, recipe, evaluate_on=test, progress=False)
    after = evaluate(model, test)
    assert before.accuracy < 0.3
    assert after.accuracy > 0.96
    assert after == history.last.evaluation
    assert after.n_samples == 359
    assert len(history.epochs) == 12
    assert history.epochs[0].train.loss > 1.5
    assert history.last.train.loss < 0.1


def test_same_seed_same_weights_and_another_seed_others(make_model, batches):
    trained = {}
    for run, seed in (("first", 1), ("same", 1), ("other", 2)):
        trained[run] = make_model()
        torch.manual_seed(len(trained))  # the global generator must not matter
        train(trained[run], batches, SHORT, seed=seed, progress=False)
    assert same_weights(trained["first"], trained["same"])
    assert not same_weights(trained["first"], trained["other"])  # dropout


def test_recipe_options_each_change_the_outcome(make_model, batches):
    plain = make_model()
    train(plain, batches, SHORT, progress=False)
    for change in (
        {"peak_lr": 0.04},
        {"momentum": 0.8},
        {"nesterov": False},
        {"weight_decay": 0.01},
        {"decay_all": True},
        {"schedule": "constant"},
        {"label_smoothing": 0.1},
        {"precision": "bfloat16"},
        {"max_grad_norm": 0.1},
    ):
        changed = make_model()
        train(changed, batches, replace(SHORT, **change), progress=False)
        assert not same_weights(plain, changed), change


def test_first_step_is_plain_sgd_by_hand(batches):
    x, y = next(iter(batches))
    recipe = Recipe(
        epochs=1, peak_lr=0.5, schedule="constant", nesterov=False, weight_decay=0.1, momentum=0.0
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    weight, bias = (p.detach().clone().requires_grad_() for p in model.parameters())
    loss = F.cross_entropy(x.flatten(1) @ weight.T + bias, y)
    d_weight, d_bias = torch.autograd.grad(loss, (weight, bias))
    history = train(model, [(x, y)], recipe, progress=False)
    torch.testing.assert_close(model[1].weight, weight - 0.5 * (d_weight + 0.1 * weight))
    torch.testing.assert_close(model[1].bias, bias - 0.5 * d_bias)  # biases are not decayed
    assert math.isclose(history.last.train.loss, loss.item(), rel_tol=1e-6)


def test_frozen_parameters_stay_and_tied_ones_stay_tied(make_model, batches):
    model = make_model()
    frozen = model[6].bias.clone()
    train(model, batches, SHORT, progress=False)
    assert torch.equal(model[6].bias, frozen)
    assert model[10].weight is model[8].weight


def test_a_plain_step_of_ones_own_trains_to_the_same_bits(make_model, batches):
    plain, own = make_model(), make_model()
    rates = []

    def step(optimizer):
        assert any(p.grad is not None for p in own.parameters())
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()

    histories = [
        train(plain, batches, SHORT, progress=False),
        train(own, batches, SHORT, step=step, progress=False),
    ]
    assert same_weights(plain, own)
    assert histories[0] == histories[1]
    assert rates == [SHORT.learning_rate(n / 20) for n in range(20)]


def test_a_step_can_hold_weights_where_they_are(make_model, batches):
    model = make_model()

    def step(optimizer):
        optimizer.step()
        with torch.no_grad():
            model[0].weight[:3] = 0

    train(model, batches, SHORT, step=step, progress=False)
    assert not model[0].weight[:3].any()
    assert model[0].weight[3:].all()


def test_a_step_that_takes_none_trains_nothing(make_model, batches):
    model, before = make_model(), make_model()
    train(model, batches, SHORT, step=lambda optimizer: None, progress=False)
    pairs = zip(model.parameters(), before.parameters(), strict=True)
    assert all(torch.equal(now, then) for now, then in pairs)


@pytest.mark.parametrize("fails", [False, True])
def test_modes_generators_gradients_and_layout_are_left_as_they_were(make_model, batches, fails):
    model, teacher = make_model(), make_model(1)
    model[1].eval()
    modes = [module.training for module in model.modules()]
    strides = [p.stride() for p in model.parameters()]
    teacher_before = copy.deepcopy(teacher.state_dict())
    recipe = replace(SHORT, channels_last=True, distill_weight=0.5)
    generator = torch.get_rng_state()
    if fails:
        x, y = next(iter(batches))
        with pytest.raises(TrainingError):
            train(model, [(x, y), (x * math.nan, y)], recipe, teacher=teacher, progress=False)
    else:
        train(model, batches, recipe, teacher=teacher, evaluate_on=batches, progress=False)
    assert [module.training for module in model.modules()] == modes
    assert all(module.training for module in teacher.modules())
    assert all(torch.equal(teacher_before[k], v) for k, v in teacher.state_dict().items())
    assert [p.stride() for p in model.parameters()] == strides
    assert all(p.grad is None for p in (*model.parameters(), *teacher.parameters()))
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_model_that_was_channels_last_stays_so(batches):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 10))
    model.to(memory_format=torch.channels_last)
    train(model, batches, replace(SHORT, channels_last=True), progress=False)
    assert model[1].weight.is_contiguous(memory_format=torch.channels_last)
    assert not model[1].weight.is_contiguous()


def test_training_works_under_no_grad_of_the_caller(make_model, batches):
    model, before = make_model(), make_model()
    with torch.no_grad():
        train(model, batches, SHORT, progress=False)
    assert not torch.equal(model[0].weight, before[0].weight)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_loss_that_is_not_finite_stops_at_once_and_says_where(make_model, batches, bad):
    x, y = next(iter(batches))
    spoilt = x.clone()
    spoilt[3, 0, 1, 1] = bad
    model = make_model()
    text = r"loss is nan at epoch 0, step 2 \(learning rate 0\.0.*Lower peak_lr=0\.05.*NaN in the"
    with pytest.raises(TrainingError, match=text):
        train(model, [(x, y), (x, y), (spoilt, y)], SHORT, progress=False)
    assert all(p.isfinite().all() for p in model.parameters())


def test_patience_stops_when_the_held_out_loss_rises(make_model, batches):
    x, y = next(iter(batches))
    wrong = [(x, (y + 1) % 10)]  # learning the right labels makes this worse in every epoch
    recipe = replace(SHORT, epochs=30, patience=3, schedule="constant")
    history = train(make_model(), batches, recipe, evaluate_on=wrong, progress=False)
    losses = [record.evaluation.loss for record in history.epochs]
    assert history.stopped_early
    assert len(losses) - 1 - losses.index(min(losses)) == 3
    assert len(losses) < 30


def test_a_student_of_distillation_alone_answers_like_its_teacher(batches):
    """The teacher has learnt every label off by one, so the two sources cannot be mixed up."""
    recipe = replace(SHORT, epochs=10)
    teacher = models.build("digits_cnn", seed=0)
    train(teacher, [(x, (y + 1) % 10) for x, y in batches], recipe, progress=False)
    for weight, shift in ((1.0, 1), (0.01, 0)):
        student = models.build("digits_cnn", seed=1)
        distilling = replace(recipe, distill_weight=weight)
        train(student, batches, distilling, teacher=teacher, progress=False)
        shifted = [(x, (y + shift) % 10) for x, y in batches]
        assert evaluate(student, shifted).accuracy > 0.8  # the other labels would give 0.1


def test_distillation_loss_against_its_definition():
    generator = torch.Generator().manual_seed(0)
    logits, taught = torch.randn(2, 5, 3, generator=generator)
    y = torch.tensor([0, 1, 2, 0, 1])
    recipe = Recipe(distill_weight=0.25, distill_temperature=2.0)
    p, q = (taught / 2).softmax(1), (logits / 2).softmax(1)
    expected = 0.75 * -logits.log_softmax(1)[range(5), y].mean()
    expected = expected + 0.25 * 4 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(loss_of(logits, y, recipe, taught), expected)
    assert loss_of(logits, y, recipe, logits) < loss_of(logits, y, recipe, taught)


def test_evaluation_is_the_mean_over_examples_not_over_batches():
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.eye(2))
    x = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    y = torch.tensor([0, 1, 0])
    result = evaluate(model, [(x[:2], y[:2]), (x[2:], y[2:])])
    right, wrong = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))
    assert math.isclose(result.loss, (right + wrong + math.log(2)) / 3, rel_tol=1e-6)
    assert math.isclose(result.accuracy, 2 / 3)
    assert result.n_samples == 3


def test_evaluation_changes_nothing(make_model, batches):
    model = make_model()
    before = copy.deepcopy(model)
    assert evaluate(model, batches) == evaluate(model, batches)
    assert same_weights(model, before)
    assert all(module.training for module in model.modules())


def test_batches_that_cannot_be_used_are_refused(make_model, batches):
    x, y = next(iter(batches))
    refused = (
        (iter([(x, y)]), "without length"),
        ([], "without length, or empty"),
        ([x], r"batch of type Tensor was given; expected a pair \(x, y\)"),
    )
    for given, text in refused:
        with pytest.raises(InputError, match=text):
            train(make_model(), given, SHORT, progress=False)
    with pytest.raises(InputError, match="no batches were given to evaluate on"):
        evaluate(make_model(), [])


def test_models_that_give_no_logits_are_refused(make_model, batches):
    with pytest.raises(InputError, match=r"gave \(32, 3, 6, 6\) for 32 examples; expected logits"):
        train(nn.Conv2d(1, 3, 3), batches, SHORT, progress=False)
    with pytest.raises(InputError, match=r"gave tuple for 32 examples"):
        evaluate(nn.LSTM(8, 4), [(x[:, 0], y) for x, y in batches])
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 7))
    distilling = replace(SHORT, distill_weight=0.5)
    with pytest.raises(InputError, match="teacher with 7 outputs was given for a model with 10"):
        train(make_model(), batches, distilling, teacher=teacher, progress=False)


def test_arguments_that_contradict_are_refused(make_model, batches):
    model = make_model()
    with pytest.raises(InputError, match=r"distill_weight=0\.5 was given without a teacher"):
        train(model, batches, replace(SHORT, distill_weight=0.5), progress=False)
    with pytest.raises(InputError, match=r"distill_weight=0\.0 was given with a teacher"):
        train(model, batches, SHORT, teacher=make_model(), progress=False)
    with pytest.raises(InputError, match=r"patience=2 was given without evaluate_on"):
        train(model, batches, replace(SHORT, patience=2), progress=False)
    with pytest.raises(InputError, match="model without parameters"):
        train(nn.ReLU(), batches, SHORT, progress=False)


def test_progress_without_a_terminal_is_a_line_an_epoch(make_model, batches, capsys, caplog):
    caplog.set_level("INFO", logger="mipp")
    for quiet in (None, False):
        train(make_model(), batches, SHORT, evaluate_on=batches, progress=quiet)
        assert "".join(capsys.readouterr()) == ""
        numerics, first, second = caplog.messages
        assert numerics == "training computes in float32, contiguous"
        assert re.fullmatch(
            r"epoch 1 of 2: loss \d\.\d{3}, [\d.]+ % right \(evaluated: \d\.\d{3}, [\d.]+ %\), "
            r"[\d.]+ s, about [\d.]+ s left", first,
        )  # fmt: skip
        assert second.startswith("epoch 2 of 2: ")
        assert "left" not in second
        caplog.clear()
    train(make_model(), batches, SHORT, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert [line[:7] for line in err.splitlines()] == ["epoch 1", "epoch 2"]


def test_progress_is_a_function_of_steps(make_model, batches):
    seen = []
    train(make_model(), batches, SHORT, progress=lambda *step: seen.append(step))
    assert seen == [("train", n, 20) for n in range(1, 21)]
    with pytest.raises(InputError, match="progress='yes'; expected True, False, None"):
        train(make_model(), batches, SHORT, progress="yes")


def test_learns_at_initialisation_scale_in_bfloat16_channels_last(batches):
    recipe = replace(SHORT, epochs=8, precision="bfloat16", channels_last=True)
    model = models.build("digits_cnn", seed=0)
    history = train(model, batches, recipe, progress=False)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert history.last.train.accuracy > 0.9


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_training_on_a_gpu(make_model, batches):
    model = make_model().cuda()
    generator = torch.cuda.get_rng_state()
    history = train(model, batches, replace(SHORT, epochs=6), evaluate_on=batches, progress=False)
    assert next(model.parameters()).is_cuda
    assert history.last.evaluation.accuracy > 0.8
    assert torch.equal(torch.cuda.get_rng_state(), generator)
