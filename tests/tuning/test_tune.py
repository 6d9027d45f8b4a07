"""Tuning: comes closer to the whole model, or changes nothing; leaves all else as it was."""

import copy
import math
import warnings
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from torch import nn

import mipp
from mipp.errors import CalibrationError, CalibrationWarning, InputError, TrainingError
from mipp.tuning import examples_of

QUICK = mipp.Tune(passes=6, learning_rate=3e-3, batch_size=16)


def images(n=4, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(32, 1, 6, 6, generator=generator) for _ in range(n)]


@cache
def plan():
    torch.manual_seed(1)
    whole = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(8 * 16, 16), nn.ReLU(), nn.Linear(16, 3),
    )  # fmt: skip
    with torch.no_grad():
        whole[7].weight *= 20  # a net that is sure of its answers, as trained ones are
    return mipp.plan(whole.eval(), images(), "units=40%", seed=3)


def setting():
    """A small model without a refit, which tuning helps, the whole one, and batches."""
    return plan().apply(refit=False), copy.deepcopy(plan().model), images()


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(before, model):
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def kl(small, whole, x):
    with torch.no_grad():
        p, q = whole.eval()(x).log_softmax(1), small.eval()(x).log_softmax(1)
    return float((p.exp() * (p - q)).sum(1).mean())


def distance(small, whole, batches):
    """On the held-out examples; the steps are too small to change anything."""
    with warnings.catch_warnings(action="ignore"):
        still = mipp.Tune(passes=1, learning_rate=1e-12)
        return mipp.tune(copy.deepcopy(small), whole, batches, still).before


def test_a_classifier_comes_closer_to_the_whole_one_on_examples_it_has_not_seen():
    small, whole, _ = setting()
    batches, before = images(8), state(whole)
    fresh = torch.cat(images(4, seed=9))
    far = kl(small, whole, fresh)
    tuned = mipp.tune(small, whole, batches, mipp.Tune(passes=30, learning_rate=3e-3))
    assert kl(small, whole, fresh) < 0.9 * far
    assert tuned.after < 0.9 * tuned.before
    assert tuned.unit == "nats"
    assert tuned.examples == (224, 32)
    assert tuned.after == tuned.passes[tuned.kept - 1].held_out
    assert same(before, whole)


def test_a_plan_does_it_with_the_seed_and_memory_of_its_own():
    by_hand, whole, batches = plan().apply(False), plan().model, images()
    mipp.tune(by_hand, whole, batches, QUICK, seed=3)
    small = plan().apply(False, tune=QUICK)
    assert same(state(by_hand), small)
    assert not same(state(plan().apply(False)), small)
    assert same(
        state(mipp.prune(whole, batches, "units=40%", seed=3, refit=False, tune=QUICK)), small
    )


def test_a_regressor_is_tuned_by_squared_error_as_a_share_of_the_variance():
    torch.manual_seed(2)
    whole = nn.Sequential(nn.Linear(5, 24), nn.Tanh(), nn.Linear(24, 1))
    batches = [(x, x.sum(1, keepdim=True)) for x in torch.randn(256, 5).split(64)]
    small = mipp.plan(whole, batches, "units=25%").apply(refit=False)
    inputs = [x for x, _ in batches]
    tuned = mipp.tune(small, whole, inputs, QUICK)
    assert tuned.unit == "of the variance"
    assert tuned.after < 0.5 * tuned.before
    with torch.no_grad():
        every = torch.cat(inputs)
        apart = ((small(every) - whole(every)) ** 2).mean() / whole(every).var()
    # the held-out eighth is about as far away as all of them
    assert distance(small, whole, inputs) == pytest.approx(float(apart), rel=0.6)


def test_several_outputs_count_alike_whatever_their_sizes():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(4)
            self.body, self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 2), nn.Linear(16, 3)

        def forward(self, x):
            hidden = self.body(x).relu()
            return {"large": 1000 * self.a(hidden), "small": self.b(hidden)}

    whole, batches = Two(), [torch.randn(64, 4) for _ in range(2)]
    small = mipp.plan(whole, batches, "units=25%").apply(refit=False)
    tuned = mipp.tune(small, whole, batches, QUICK)
    assert 0 < tuned.after < tuned.before < 5
    only = mipp.tune(
        mipp.plan(whole, batches, "units=25%").apply(refit=False), whole, batches, QUICK,
        outputs=lambda output: output["small"],
    )  # fmt: skip
    assert only.unit == "nats"
    assert only.better


def test_where_tuning_hurts_the_weights_from_before_are_put_back():
    small, whole, batches = setting()
    before = state(small)
    harmful = mipp.Tune(passes=4, learning_rate=3.0)
    with pytest.warns(CalibrationWarning, match=r"changed nothing.*lower learning rate than 3"):
        tuned = mipp.tune(small, whole, batches, harmful)
    assert not tuned.better
    assert tuned.kept == 0
    assert tuned.after == tuned.before
    assert all(done.held_out > tuned.before for done in tuned.passes)
    assert same(before, small)
    assert str(tuned).startswith("not tuned: no pass came closer")


def test_a_rate_that_takes_it_far_away_is_lowered_from_the_weights_before(monkeypatch):
    start, whole, batches = setting()
    wild = mipp.Tune(passes=12, learning_rate=0.3, batch_size=16)
    # how far the first pass leads differs a little between processors, so it is measured here
    monkeypatch.setattr("mipp.tuning.passes.FAR", math.inf)
    left = mipp.tune(copy.deepcopy(start), whole, batches, wild)
    first, second, *_ = left.passes
    further = first.held_out / left.before
    assert further > 1.2
    assert second.learning_rate > first.learning_rate  # it was left to come back
    monkeypatch.setattr("mipp.tuning.passes.FAR", further / 1.1)
    small = copy.deepcopy(start)
    tuned = mipp.tune(small, whole, batches, wild)
    assert tuned.passes[0] == first
    assert tuned.passes[1].learning_rate <= first.learning_rate / 2
    assert tuned.better
    assert distance(small, whole, batches) == pytest.approx(tuned.after, rel=1e-5)
    # at a rate of 0 the weights from before stay
    monkeypatch.setattr("mipp.tuning.passes.LOWER", 0.0)
    with pytest.warns(CalibrationWarning, match="changed nothing"):
        undone = mipp.tune(start, whole, batches, wild)
    assert undone.passes[0] == first
    assert {done.held_out for done in undone.passes[1:]} == {undone.before}


@pytest.mark.parametrize(
    ("distances", "by_chance", "kept"),
    [
        ([1.0, 0.5, 0.3, 0.4], False, 2),
        ([1.0, 0.5, 0.3, 0.4], True, 3),
        ([1.0, 0.5, 0.3, 1.5], True, 2),  # no closer than before
        ([1.0, 1.5, 1.1, 1.2], True, 0),
    ],
)
@pytest.mark.filterwarnings("ignore::mipp.errors.CalibrationWarning")
def test_the_best_pass_is_kept_or_the_last_where_chance_explains_it(
    monkeypatch, distances, by_chance, kept
):
    states, places = [], iter(distances)

    def held_out(run):
        states.append(state(run.small))
        return next(places)

    monkeypatch.setattr("mipp.tuning.passes.Run.held_out", held_out)
    monkeypatch.setattr("mipp.tuning.passes.Run._by_chance", lambda *_: by_chance)
    small, whole, batches = setting()
    tuned = mipp.tune(small, whole, batches, mipp.Tune(passes=3))
    assert (tuned.kept, tuned.after) == (kept, distances[kept])
    assert same(states[kept], small)
    assert len(states) == 4


def test_what_chance_explains():
    by_chance = partial(mipp.tuning.passes.Run._by_chance, None)
    best, spread = torch.full((16,), 1.0), torch.linspace(-1, 1, 16)
    error = float(16**0.5 * spread.std())  # of a sum of 16
    assert by_chance(best + spread + 0.9 * error / 16, best)
    assert not by_chance(best + spread + 1.1 * error / 16, best)
    assert by_chance(best - 0.1, best)
    assert not by_chance(best + 0.1, best)  # each of them says the same
    assert not by_chance(best[:1] + 0.1, best[:1])


def test_patience_and_time_end_it():
    small, whole, batches = setting()
    settings = mipp.Tune(passes=50, learning_rate=100.0, patience=2)
    with pytest.warns(CalibrationWarning):
        tuned = mipp.tune(copy.deepcopy(small), whole, batches, settings)
    assert tuned.stopped == "patience"
    assert len(tuned.passes) == 2
    tuned = mipp.tune(
        copy.deepcopy(small), whole, batches, mipp.Tune(passes=10**6, minutes=0.02, patience=None)
    )
    assert tuned.stopped == "minutes"
    assert tuned.seconds < 10
    assert tuned.passes[-1].learning_rate < 1e-4


def test_same_seed_same_weights_whatever_the_global_generator():
    small, whole, batches = setting()
    made = []
    for run, seed in enumerate((0, 0, 1)):
        torch.manual_seed(run)
        drawn = torch.get_rng_state()
        made.append(copy.deepcopy(small))
        mipp.tune(made[-1], whole, batches, QUICK, seed=seed)
        assert torch.equal(torch.get_rng_state(), drawn)
    assert same(state(made[0]), made[1])
    assert not same(state(made[0]), made[2])


def test_modes_flags_statistics_and_gradients_are_as_before():
    small, whole, batches = setting()
    small.train()
    whole.train()
    small[0].eval()
    small[0].weight.requires_grad_(False)
    frozen, statistics = small[0].weight.clone(), small[1].running_mean.clone()
    tuned = mipp.tune(small, whole, batches, QUICK)
    assert tuned.better
    assert [m.training for m in small.children()] == [False] + [True] * 7
    assert whole.training
    assert not small[0].weight.requires_grad
    assert small[5].weight.requires_grad
    assert torch.equal(small[0].weight, frozen)
    assert torch.equal(small[1].running_mean, statistics)
    assert all(p.grad is None for p in (*small.parameters(), *whole.parameters()))
    assert all(p.requires_grad for p in whole.parameters())


def test_a_net_that_is_frozen_altogether_is_tuned_and_frozen_again():
    small, whole, batches = setting()
    small.requires_grad_(requires_grad=False)
    with torch.inference_mode():
        tuned = mipp.tune(small, whole, batches, QUICK)
    assert tuned.better
    assert not any(p.requires_grad for p in small.parameters())


def test_an_interruption_leaves_the_best_weights_so_far():
    start, whole, batches = setting()
    small, steps_per_pass = copy.deepcopy(start), 7
    settings = mipp.Tune(passes=6, learning_rate=1e-3, batch_size=16, patience=None)

    def stop(_stage, done, _total):
        if done == 3 * steps_per_pass + 2:
            raise KeyboardInterrupt

    modes = [m.training for m in small.modules()]
    with pytest.raises(KeyboardInterrupt):
        mipp.tune(small, whole, batches, settings, progress=stop)
    assert [m.training for m in small.modules()] == modes
    longer = mipp.tune(copy.deepcopy(start), whole, batches, settings)
    lows = [done.held_out for done in longer.passes[:3]]
    assert distance(small, whole, batches) == pytest.approx(min(lows), rel=1e-5)
    assert min(lows) < longer.before


def test_an_interruption_in_the_first_pass_leaves_the_old_weights():
    small, whole, batches = setting()
    before = state(small)

    def stop(_stage, done, _total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mipp.tune(small, whole, batches, QUICK, progress=stop)
    assert same(before, small)


def test_what_is_not_finite_is_an_error_that_changes_nothing():
    small, whole, batches = setting()
    broken = copy.deepcopy(small)
    with torch.no_grad():
        broken[7].bias[0] = math.nan
    with pytest.raises(TrainingError, match="away from the whole one; expected a finite"):
        mipp.tune(broken, whole, batches, QUICK)
    before = state(small)

    class Explodes(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * math.inf

    class Exploding(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return Explodes.apply(self.inner(x))

    with pytest.raises(TrainingError, match=r"in pass 1; expected a finite number\. Lower"):
        mipp.tune(Exploding(small), whole, batches, QUICK)
    assert same(before, small)
    bad = copy.deepcopy(whole)
    with torch.no_grad():
        bad[7].weight[0] = math.inf
    with pytest.raises(CalibrationError, match="whole model gives NaN or infinite outputs"):
        mipp.tune(small, bad, batches, QUICK)


def test_models_that_cannot_be_compared():
    small, whole, batches = setting()
    with pytest.raises(InputError, match="shares parameters with the whole one"):
        mipp.tune(whole, whole, batches)
    other = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    with pytest.raises(InputError, match=r"outputs of shapes \[\(.*4\)\].*expected the same"):
        mipp.tune(other, whole, batches)

    class Deciding(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return nn.functional.one_hot(self.inner(x).argmax(1), 3).float()

    with pytest.raises(InputError, match="No gradient leads from the small model's outputs"):
        mipp.tune(Deciding(small), whole, batches)

    class Counting(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x).argmax(1)

    with pytest.raises(CalibrationError, match="no floating-point tensor"):
        mipp.tune(Counting(small), Counting(copy.deepcopy(whole)), batches)


def test_too_few_examples_and_wrong_settings():
    small, whole, batches = setting()
    with pytest.raises(InputError, match=r"given 1 example .*expected one to train on"):
        mipp.tune(small, whole, [batches[0][:1]])
    assert mipp.tune(small, whole, [batches[0][:2]], QUICK).examples == (1, 1)
    with pytest.raises(InputError, match="tune='fast'; expected True, False or a record"):
        plan().apply(tune="fast")
    for name, value in (
        ("passes", 0), ("minutes", -1.0), ("learning_rate", 0.0), ("held_out", 1.0),
        ("patience", 0), ("batch_size", 0), ("temperature", math.inf),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"{name}={value}"):
            mipp.Tune(**{name: value})
    with pytest.raises(InputError, match="augment='rotate'"):
        mipp.Tune(augment="rotate")
    read = mipp.Plan.from_json(plan().to_json(), whole)
    with pytest.raises(InputError, match="Tuning needs calibration batches"):
        read.apply(refit=False, tune=True)


def test_a_share_of_every_batch_is_held_out_and_examples_change_between_passes():
    from mipp.statistics import read_batches
    from mipp.tuning.examples import Examples

    batches = read_batches([torch.arange(n).float()[:, None] for n in (40, 40, 3, 40)])
    examples = Examples.of(batches, 0.125, 16, seed=0)
    assert [len(t) for _, t in examples.held_out] == [5, 5, 5]
    assert examples.n_steps() == 7
    assert examples.counts() == (108, 15)
    trained = {(n, int(k)) for n, t in examples.trained for k in t}
    out = {(n, int(k)) for n, t in examples.held_out for k in t}
    assert not trained & out
    assert len(trained | out) == 123
    first, second = examples.steps(), examples.steps()
    for steps in (first, second):
        assert {(n, int(k)) for parts in steps for n, t in parts for k in t} == trained
        assert [sum(len(t) for _, t in parts) for parts in steps] == [16] * 6 + [12]
    assert str(first) != str(second)
    values = examples.batch(first[0]).args[0].flatten().long().tolist()
    assert values == [int(k) for _, t in first[0] for k in t]


def test_batches_that_cannot_be_divided_are_held_out_as_a_whole():
    class Graphs(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.first, self.second = nn.Linear(4, 16), nn.Linear(16, 3)

        def forward(self, x, neighbours):
            return self.second((neighbours @ self.first(x)).relu())

    def graph_of(n):
        return {"x": torch.randn(n, 4), "neighbours": torch.eye(n) + torch.ones(n, n) / n}

    whole = Graphs()
    batches = [mipp.statistics.Batch((), graph_of(20), whole=True) for _ in range(6)]
    small = mipp.plan(whole, batches, "units=25%").apply(refit=False)
    steps = []
    tuned = mipp.tune(small, whole, batches, QUICK, progress=lambda *call: steps.append(call))
    assert tuned.examples == (100, 20)
    assert steps[-1][1:] == (6 * 5, 6 * 5)
    assert tuned.better


class Scaled(nn.Module):
    """Takes a number for the whole batch beside the examples."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, scale):
        return self.inner(scale * x)


@pytest.mark.parametrize("number", [float, torch.tensor])
def test_examples_with_other_numbers_beside_them_are_not_mixed(number):
    torch.manual_seed(3)
    whole = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    small, x = copy.deepcopy(whole), torch.randn(32, 4)
    still = mipp.Tune(passes=1, learning_rate=1e-12, batch_size=16)
    batches = [{"x": x, "scale": number(scale)} for scale in (1.0, 10.0, 10.0, 0.1)]
    steps = []
    with pytest.warns(CalibrationWarning):
        tuned = mipp.tune(
            Scaled(small), Scaled(whole), batches, still, progress=lambda *step: steps.append(step)
        )
    assert tuned.passes[0].train < 1e-3
    assert len(steps) == 2 + 4 + 2
    assert tuned.examples == (112, 16)


@pytest.mark.parametrize("target", [
    lambda n: torch.zeros(32, n), lambda n: torch.tensor(float(n)), lambda n: [n], lambda _: None,
    torch.zeros,
])  # fmt: skip
def test_targets_of_any_kind_do_not_matter(target):
    small, whole, batches = setting()
    other = copy.deepcopy(small)
    pairs = [(x, target(n + 2)) for n, x in enumerate(batches)]
    settings = replace(QUICK, loss="categorical")
    assert mipp.tune(small, whole, pairs, settings) == mipp.tune(other, whole, batches, settings)
    assert same(state(other), small)


def test_pixels_without_a_class_do_not_count():
    torch.manual_seed(3)
    whole, small = nn.Conv2d(1, 3, 1), nn.Conv2d(1, 3, 1)
    x, target = torch.randn(16, 1, 4, 4), torch.randint(0, 3, (16, 4, 4))
    target[:, 2:] = -100
    other = x.clone()
    other[:, :, 2:] = 77.0
    found = [distance(small, whole, [(images, target)]) for images in (x, other)]
    assert found[0] == found[1]
    assert distance(small, whole, [other]) > 2 * found[0]


def test_held_out_examples_without_labels_cannot_decide():
    small, whole, batches = setting()
    unlabelled = [(x, torch.full((32,), -100)) for x in batches]
    before = state(small)
    with pytest.raises(InputError, match=r"no prediction for the held-out .* leave the labels out"):
        mipp.tune(small, whole, unlabelled, QUICK)
    assert same(before, small)


def test_answers_that_need_too_much_memory_are_computed_in_every_pass():
    small, whole, batches = setting()
    calls = []
    handle = whole[7].register_forward_hook(lambda *_: calls.append(1))
    many, once = copy.deepcopy(small), copy.deepcopy(small)
    mipp.tune(once, whole, batches, QUICK)
    kept, calls[:] = len(calls), []
    mipp.tune(many, whole, batches, QUICK, memory=100)
    handle.remove()
    assert len(calls) > kept + 6 * 7
    for key, value in many.state_dict().items():
        torch.testing.assert_close(value, once.state_dict()[key], rtol=1e-3, atol=1e-4)


def test_augmentation_changes_inputs_for_both_models_alike():
    small, whole, batches = setting()
    seen = {"small": [], "whole": []}
    for name, model in (("small", small), ("whole", whole)):
        model[0].register_forward_pre_hook(lambda _m, args, name=name: seen[name].append(args[0]))
    tuned = mipp.tune(
        small, whole, batches, mipp.Tune(passes=2, augment=lambda x: x + torch.rand(())),
    )  # fmt: skip
    assert len(tuned.passes) == 2
    pairs = [any(a.equal(b) for b in seen["whole"]) for a in seen["small"]]
    assert all(pairs)
    assert not any(a.equal(b) for a in seen["small"][1:4] for b in batches)
    mipp.tune(small, whole, batches, mipp.Tune(passes=1, augment="flip-shift"))
    with pytest.raises(InputError, match=r"augment made .*expected a tensor of the same shape"):
        mipp.tune(small, whole, batches, mipp.Tune(augment=lambda x: x[:, :, 1:]))
    flat = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    rows = [torch.randn(32, 4)]
    with pytest.raises(InputError, match="'flip-shift' was given for inputs of shape"):
        mipp.plan(flat, rows, "units=50%").apply(tune=mipp.Tune(augment="flip-shift"))


def test_flip_shift_keeps_an_even_image_and_moves_another():
    from mipp.statistics import Batch
    from mipp.tuning.examples import augmented

    even = torch.full((4, 3, 16, 16), 2.5)
    assert torch.equal(augmented(Batch((even,)), "flip-shift").args[0], even)
    slope = torch.arange(16.0).expand(64, 1, 16, 16)
    moved = augmented(Batch((slope,)), "flip-shift").args[0]
    rising = moved[:, 0, 8, 4] < moved[:, 0, 8, 12]
    assert 10 < int(rising.sum()) < 54
    assert len(moved[:, 0, 0, 8].unique()) > 4
    assert float(moved.max()) == 15.0


def test_zeros_of_single_weights_are_held():
    _, whole, batches = setting()
    chosen = mipp.plan(whole, batches, "params=30%", granularity="weight")
    small, untuned = chosen.apply(False, tune=QUICK), chosen.apply(False)
    for name in chosen.masks:
        weight = small.get_parameter(name)
        assert not bool(weight[~chosen.masks[name]].any())
        assert not torch.equal(weight, untuned.get_parameter(name))


def test_units_that_stay_for_their_shape_alone_stay_zero():
    torch.manual_seed(0)
    whole = nn.Sequential(
        nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 6), nn.Sigmoid(), nn.Linear(6, 3)
    )
    batches = [3 * torch.randn(64, 4)]
    chosen = mipp.plan(whole, batches, widths={"0": 0, "2": 3}, min_units=0)
    assert chosen.collapsed == ("0",)
    small = chosen.apply(False, tune=QUICK)
    assert not bool(small[0].weight.any())
    assert not bool(small[2].weight.any())
    assert not torch.equal(small[4].weight, chosen.apply(False)[4].weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_keep_their_dtype_and_small_steps_are_not_lost(dtype):
    torch.manual_seed(2)
    whole = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3)).to(dtype)
    batches = [torch.randn(128, 6, dtype=dtype) for _ in range(2)]
    small = mipp.prune(whole.float(), [b.float() for b in batches], "units=25%", refit=False)
    small, whole = small.to(dtype), whole.to(dtype)
    tuned = mipp.tune(small, whole, batches, mipp.Tune(passes=30, learning_rate=2e-4))
    assert small[0].weight.dtype == dtype
    assert tuned.after < 0.99 * tuned.before


def test_progress_has_one_stage(caplog):
    small, whole, batches = setting()
    calls = []
    first = copy.deepcopy(small)
    mipp.tune(first, whole, batches, QUICK, progress=lambda *call: calls.append(call))
    assert {stage for stage, _, _ in calls} == {"tune"}
    assert [done for _, done, _ in calls] == list(range(1, 43))
    assert {total for _, _, total in calls} == {42}
    with caplog.at_level("INFO", "mipp"):
        tuned = mipp.tune(small, whole, batches, QUICK, progress=False)
    assert str(tuned) in caplog.text


def by_heart():
    """A plan whose refit has fewer rows than the layer has inputs."""
    torch.manual_seed(4)
    whole = nn.Sequential(nn.Linear(6, 256), nn.ReLU(), nn.Linear(256, 3)).eval()
    with torch.no_grad():
        whole[2].weight *= 20
    x = torch.randn(3, 32, 6)
    with warnings.catch_warnings(action="ignore"):
        return mipp.plan(whole, list(x), "units=50%", seed=1, method="random")


MORE = mipp.Tune(passes=20, learning_rate=3e-3, batch_size=16, augment=torch.randn_like)
"""With inputs of the same kind, for which the whole model answers."""


def test_the_refit_leaves_out_the_examples_that_decide():
    chosen = by_heart()
    whole, fresh = chosen.model, torch.randn(512, 6, generator=torch.Generator().manual_seed(9))
    refitted = chosen.apply()
    seen = distance(refitted, whole, [b.args[0] for b in chosen.batches])
    small, tuned = chosen.apply_tuned(MORE)
    far = kl(refitted, whole, fresh)
    assert seen < 0.4 * far, "this refit has not learned the examples by heart"
    assert 0.25 * far < tuned.before < 4 * far
    assert tuned.better
    assert tuned.examples == (84, 12)
    assert kl(small, whole, fresh) < far


def test_a_plan_whose_tuning_changes_nothing_is_fitted_on_all_examples():
    chosen = by_heart()
    with pytest.warns(CalibrationWarning, match="Tuning changed nothing"):
        small, tuned = chosen.apply_tuned(mipp.Tune(passes=1, learning_rate=1e-12))
    assert not tuned.better
    assert tuned.after == tuned.before
    assert tuned.on_all == ()
    assert same(state(chosen.apply()), small)


def test_what_helps_is_done_once_more_on_all_examples():
    """The model is the refit on all examples, trained on all of them to the end."""
    chosen = by_heart()
    fresh = torch.randn(4096, 6, generator=torch.Generator().manual_seed(9))
    small, tuned = chosen.apply_tuned(MORE)
    assert len(tuned.on_all) == len(tuned.passes) == 20
    assert "; then 20 passes on all examples" in str(tuned)
    part = examples_of(chosen.batches, MORE, seed=1)
    assert part.counts() == tuned.examples == (84, 12)
    assert part.with_all().counts() == (96, 12)
    less = chosen._applied(chosen.model, True, False, part.trained_batches())
    inputs = [batch.args[0] for batch in chosen.batches]
    assert mipp.tune(less, chosen.model, inputs, MORE, seed=1) == replace(tuned, on_all=())
    assert not same(state(less), small)
    far = kl(chosen.apply(), chosen.model, fresh)
    assert kl(small, chosen.model, fresh) < kl(less, chosen.model, fresh) < 0.9 * far


def test_with_patience_the_learning_rate_falls_over_as_many_passes_as_were_made(monkeypatch):
    rates, places = [], iter([1.0, 0.5, 0.6, 0.6, 0.6, 0.4])  # the last one of the second training
    real = mipp.tuning.passes.Run._one_pass

    def noted(run, number):
        found = real(run, number)
        rates.append(found[1])
        return found

    monkeypatch.setattr("mipp.tuning.passes.Run.held_out", lambda _: next(places))
    monkeypatch.setattr("mipp.tuning.passes.Run._one_pass", noted)
    tuned = by_heart().apply_tuned(replace(MORE, passes=60, patience=3))[1]
    assert tuned.stopped == "patience"
    assert len(tuned.passes) == len(tuned.on_all) == 4
    assert rates[3] > 0.5 * MORE.learning_rate
    assert rates[-1] < 0.1 * rates[3]


def test_passes_that_were_undone_are_not_repeated(monkeypatch):
    places = iter([1.0, 3.0, 2.5, 0.5, 0.4, 0.3])
    monkeypatch.setattr("mipp.tuning.passes.Run.held_out", lambda _: next(places))
    tuned = by_heart().apply_tuned(replace(MORE, passes=4))[1]
    assert tuned.kept == 4
    assert len(tuned.on_all) == 2


def test_a_model_that_is_worse_on_what_it_has_seen_now_is_not_taken(monkeypatch):
    def spoil(run, _):
        for parameter in run.parameters:
            parameter.data.zero_()
        return [0.0]

    chosen = by_heart()
    monkeypatch.setattr("mipp.tuning.two_trainings.Run.repeat", spoil)
    small, tuned = chosen.apply_tuned(MORE)
    assert tuned.on_all == ()
    assert distance(small, chosen.model, [b.args[0] for b in chosen.batches]) < tuned.before


def test_the_time_is_for_both_trainings():
    chosen = by_heart()
    long = mipp.Tune(passes=10_000, learning_rate=1e-3, batch_size=16, minutes=1 / 15)
    tuned = chosen.apply_tuned(long)[1]
    assert tuned.stopped == "minutes"
    assert tuned.seconds < 6


def test_without_a_refit_nothing_is_repeated():
    for without in (False, None, "none"):
        tuned = plan().apply_tuned(QUICK, refit=without)[1]
        assert tuned.on_all == ()
        assert tuned.better


@pytest.mark.parametrize("granularity", ["block", "weight"])
def test_blocks_and_single_weights_leave_them_out_as_well(granularity):
    net = mipp.models.build("resnet20", num_classes=10, width=0.25, seed=0).eval()
    x = torch.randn(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings(action="ignore"):
        chosen = mipp.plan(net, list(x), "params=80%", seed=1, granularity=granularity)
        tuned = chosen.apply_tuned(mipp.Tune(passes=1, learning_rate=1e-9, held_out=0.25))[1]
        start = tuned.before
        on_all = mipp.Tune(passes=1, learning_rate=1e-12, held_out=0.25)
        seen = mipp.tune(chosen.apply(), net, list(x), on_all, seed=1).before
    assert tuned.examples == (12, 4)
    assert seen < start
