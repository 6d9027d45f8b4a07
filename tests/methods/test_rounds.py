"""The loop that all methods share, and the hook for those that train."""

import copy
import itertools
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

import mipp
from mipp import errors, graph, methods
from mipp.methods import (
    SNIP,
    Method,
    Question,
    ScoringMethod,
    SynFlow,
    Trained,
    TrainingMethod,
)
from mipp.methods.shared.iterative import ask
from mipp.planning.option_values import unit_options

from .nets import Normed, data, jitter_norms, plain, question, some, unchecked, wide


@dataclass(frozen=True, kw_only=True)
class Probe(ScoringMethod):
    """Scores that the test gives, and a note of what was asked."""

    name = "probe"
    summary = source = "test"
    needs = "nothing"
    at_init = True
    ranking = "global"

    scale: float = 1.0
    shift: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "seen", [])

    def score(self, question):
        self.seen.append(question)
        generator = np.random.default_rng(question.round)
        torch.rand(3)  # leaves a mark on the global generator
        return {
            g.index: self.scale * generator.random(g.n_units) + self.shift
            for g in question.graph.groups
        }


def batches():
    return data(dtype=torch.float32)


def test_removed_units_never_return_and_are_zeros_in_the_model_that_is_asked_about():
    model, probe = wide(), Probe(rounds=8)
    plan = mipp.plan(model, batches(), "units=10", method=probe)
    assert [q.round for q in probe.seen] == list(range(1, 9))
    assert all(q.rounds == 8 for q in probe.seen)
    widths = []
    for before, after in itertools.pairwise(probe.seen):
        for index, units in after.keep.items():
            assert not (units & ~before.keep[index]).any()
        widths.append(sum(int(units.sum()) for units in after.keep.values()))
    assert widths == [int(64 * (10 / 64) ** (k / 8) + 1e-9) for k in range(1, 8)]
    last = probe.seen[-1]
    for group in last.graph.groups:
        gone = torch.from_numpy(~last.keep[group.index])
        key = group.producers[0].tensor
        weight = dict(last.model.named_parameters())[key]
        assert (weight[gone] == 0).all()
        assert not last.live[key].expand_as(weight)[gone].any()
        kept = set(plan.keep[group.name])
        assert kept <= set(np.flatnonzero(last.keep[group.index]).tolist())
    assert last.model is not model


def test_a_question_of_its_own_in_evaluation_mode_with_gradients_and_a_seed():
    model, probe = jitter_norms(Normed()).train().requires_grad_(False), Probe()
    with torch.no_grad():
        mipp.plan(model, batches(), "units=50%", method=probe, seed=5)
    (asked,) = probe.seen
    assert not any(module.training for module in asked.model.modules())
    assert all(p.requires_grad for p in asked.model.parameters())
    assert asked.seed == 5
    assert model.training
    assert not any(p.requires_grad for p in model.parameters())


def test_seed_and_round_decide_what_a_method_draws_from_the_global_generator():
    @dataclass(frozen=True, kw_only=True)
    class Drawing(Probe):
        def score(self, question):
            self.seen.append(torch.rand(4).tolist())
            return {g.index: np.arange(g.n_units) * 1.0 for g in question.graph.groups}

    def drawn(seed):
        probe = Drawing(rounds=2)
        torch.rand(1)
        mipp.plan(wide(), batches(), "units=50%", method=probe, seed=seed)
        return probe.seen

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert first == again
    assert not any(numbers in first for numbers in other)
    assert first[0] != first[1]


@pytest.mark.parametrize("shift", [0.0, -2.0])
def test_a_global_ranking_keeps_exactly_the_highest_scores(shift):
    model, probe = wide(), Probe(shift=shift)
    plan = mipp.plan(model, batches(), "units=20", method=probe)
    scores = Probe(shift=shift).score(probe.seen[0])
    every = sorted(s for values in scores.values() for s in values)
    for group in probe.seen[0].graph.groups:
        expected = np.flatnonzero(scores[group.index] >= every[-20])
        assert list(plan.keep[group.name]) == expected.tolist()


def test_half_precision_is_scored_in_float32():
    model, probe = wide().bfloat16(), Probe()
    half = [(batch.args[0].bfloat16(), batch.target) for batch in batches()]
    mipp.plan(model, half, "units=50%", method=probe)
    (asked,) = probe.seen
    assert {p.dtype for p in asked.model.parameters()} == {torch.float32}
    assert asked.batches[0].args[0].dtype == torch.float32
    assert next(model.parameters()).dtype == torch.bfloat16
    mipp.plan(model, half, "units=50%", method="snip")


def test_a_method_that_only_reads_gets_the_model_itself_until_units_are_gone():
    @dataclass(frozen=True, kw_only=True)
    class Reader(Probe):
        reads_only = True

    model, probe = jitter_norms(Normed()).bfloat16().train(), Reader(rounds=2)
    half = [(batch.args[0].bfloat16(), batch.target) for batch in batches()]
    mipp.plan(model, half, "units=50%", method=probe)
    first, second = probe.seen
    assert first.model is model
    assert first.batches[0].args[0].dtype == torch.bfloat16
    assert second.model is not model
    assert {p.dtype for p in second.model.parameters()} == {torch.bfloat16}
    assert second.live
    assert model.training


READ_ONLY = [
    name
    for name in methods.names()
    if isinstance(methods.get(name), ScoringMethod) and methods.get(name).reads_only
]


@pytest.mark.parametrize("name", READ_ONLY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_methods_that_only_read_rank_units_in_half_precision_nearly_as_in_float32(name, dtype):
    model = jitter_norms(Normed()).eval().to(dtype)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ranks = []
    for net in (model, copy.deepcopy(model).float()):
        given = data(dtype=next(net.parameters()).dtype)
        traced = graph.trace(net, (given[0].args[0][:4],))
        scores = ask(methods.get(name), Question(net, traced, given))
        ranks.append({g: np.argsort(np.argsort(values)) for g, values in scores.items()})
    for group, ranked in ranks[0].items():
        assert np.abs(ranked - ranks[1][group]).sum() <= 2, (group, ranked, ranks[1][group])
    assert ranks[0].keys() == ranks[1].keys() != set()
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_scores_that_are_not_finite_are_an_error_but_those_of_removed_units_are_not_read():
    with pytest.raises(errors.CalibrationError, match="'probe' gave scores of group"):
        mipp.plan(wide(), batches(), "units=50%", method=Probe(scale=float("nan")))

    @dataclass(frozen=True, kw_only=True)
    class Blind(Probe):
        def score(self, question):
            scores = super().score(question)
            return {g: np.where(question.keep[g], s, np.nan) for g, s in scores.items()}

    mipp.plan(wide(), batches(), "units=50%", method=Blind(rounds=3))


def test_a_budget_out_of_reach_is_told_at_once_and_with_its_own_numbers():
    probe = Probe(rounds=50)
    with pytest.raises(errors.BudgetError, match="units <= 2 cannot be reached"):
        mipp.plan(wide(), batches(), "units=2", method=probe)
    assert not probe.seen


def test_progress_is_told_by_round():
    stages = []
    mipp.plan(wide(), batches(), "units=50%", method=Probe(rounds=3),
              progress=lambda *stage: stages.append(stage))  # fmt: skip
    assert stages == [("score", 1, 3), ("score", 2, 3), ("score", 3, 3)]


def test_rounds_as_a_keyword_replaces_those_of_the_method():
    assert unit_options(method="synflow").rounds == 100
    settings = unit_options(method="synflow", rounds=7)
    assert settings.method == SynFlow(rounds=7)
    assert settings.rounds == 7
    with pytest.raises(errors.InputError, match="SynFlow has rounds=0; expected at least 1"):
        SynFlow(rounds=0)


def test_several_budgets_share_one_scoring():
    probe = Probe()
    stages = []
    plans = mipp.plans(wide(), batches(), ["units=50%", "units=20%"], method=probe,
                       progress=lambda *stage: stages.append(stage))  # fmt: skip
    assert len(probe.seen) == 1
    assert stages == [("score", 1, 1)]
    alone = mipp.plan(wide(), batches(), "units=20%", method=Probe())
    assert plans[1].keep == alone.keep
    for name, units in plans[1].keep.items():
        assert set(units) <= set(plans[0].keep[name])
    with pytest.raises(errors.InputError, match=r"rounds=100.*Call mipp.plan for each"):
        mipp.plans(wide(), batches(), ["units=50%", "units=20%"], method="synflow")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"method": "magic"}, "'magic' is not known; expected one of mipp, "),
        ({"method": "snip", "stop": mipp.Share(0.9)}, "'snip' measures no information"),
        ({"method": "snip", "budget": "information=90%"}, "'snip' measures no information"),
        ({"method": "snip", "training": True}, "'snip' was given with training="),
        ({"training": True}, "'mipp' was given with training="),
    ],
)
def test_options_that_do_not_fit_a_method_are_errors(options, text):
    options = {"budget": "units=50%"} | options
    if "training" in options:
        options["training"] = mipp.Training(batches(), mipp.retrain.Recipe())
    with pytest.raises(errors.InputError, match=text):
        mipp.plan(wide(), batches(), **options)


def test_mipp_is_a_method_beside_its_rivals():
    assert methods.get("mipp") == methods.Mipp()
    model = wide()
    named = mipp.plan(model, batches(), "units=50%", method="mipp")
    assert (
        named.to_json() == mipp.plan(model, batches(), "units=50%", method=methods.Mipp()).to_json()
    )
    assert methods.names()[0] == methods.facts()[0].name == "mipp"


def test_no_method_is_registered_under_another_name():
    assert all(methods.get(name).name == name for name in methods.names()[1:])
    assert all(isinstance(methods.get(name), Method) for name in methods.names()[1:])


@pytest.mark.parametrize("allocation", ["uniform", "priced", "tolerance"])
def test_the_allocation_of_the_caller_goes_before_the_methods_own(allocation):
    model = wide()
    given = mipp.plan(model, batches(), "macs=50%", method=Probe(), allocation=allocation)
    own = mipp.plan(model, batches(), "macs=50%", method=Probe())
    assert given.keep != own.keep
    if allocation == "uniform":
        shares = [len(given.keep[name]) / n for name, n in (("1", 24), ("3", 24), ("5", 16))]
        assert max(shares) - min(shares) <= 1 / 16


# ---- methods that train


@dataclass(frozen=True, kw_only=True)
class Shrinker(TrainingMethod):
    """Trains, keeps the units with the largest weights, in rounds, and trains on."""

    name = "shrinker"
    summary = source = "test"
    needs = "training"
    at_init = True
    ranking = "global"

    rounds: int = 2
    breaks: bool = False

    def run(self, question, training, spend):
        keep = question.keep
        for number in range(1, self.rounds + 1):
            mipp.retrain.train(question.model, training.batches, training.recipe, progress=False)
            rows = {n: p.detach() for n, p in question.model.named_parameters()}
            keep = spend(methods.aggregate(question.graph, keep, rows), keep, number / self.rounds)
        return Trained(nn.Linear(2, 2) if self.breaks else question.model, keep)


def bundle():
    recipe = mipp.retrain.Recipe(epochs=1, peak_lr=0.05, schedule="constant")
    return mipp.Training([(batch.args[0], batch.target) for batch in batches()], recipe)


def test_a_method_that_trains_gives_a_plan_for_the_trained_net():
    model = wide().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    plan = mipp.plan(model, batches(), "units=20", method=Shrinker(), training=bundle())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert plan.after.units == 20
    assert plan.model is not model
    assert not torch.equal(plan.model[1].weight, model[1].weight)
    assert plan.model.training
    small = plan.apply(refit=False)
    torch.testing.assert_close(small[1].weight, plan.model[1].weight[list(plan.keep["1"])])
    assert plan.seconds["train"] > 0
    x = batches()[0].args[0]
    torch.testing.assert_close(small(x), plan.mask()(x))
    again = mipp.plan(model, batches(), "units=20", method=Shrinker(), training=bundle())
    assert again.keep == plan.keep


def test_time_of_training_is_that_of_training_also_with_a_budget_of_latency():
    class Slow(Shrinker):
        def run(self, question, training, spend):
            time.sleep(0.5)
            return super().run(question, training, spend)

    def stopwatch(works, **_):
        return [np.full(5, 1.0 if number == 0 else 0.4) for number in range(len(works))]

    started = time.monotonic()
    plan = mipp.plan(
        wide(), batches(), "latency=70%", method=Slow(), training=bundle(),
        latency=mipp.Latency(stopwatch=stopwatch),
    )  # fmt: skip
    assert plan.seconds["train"] >= 0.5
    # what is counted as timing leaves room for the training
    assert time.monotonic() - started - plan.seconds["timing"] >= 0.5


def test_training_that_is_missing_or_leads_elsewhere_is_an_error():
    with pytest.raises(errors.InputError, match=r"'shrinker' was given without training=;"):
        mipp.plan(wide(), batches(), "units=50%", method=Shrinker())
    with pytest.raises(errors.InputError, match="gave back a model of another structure"):
        mipp.plan(wide(), batches(), "units=50%", method=Shrinker(breaks=True), training=bundle())
    with pytest.raises(errors.InputError, match="trains towards one budget"):
        mipp.plans(
            wide(), batches(), ["units=50%", "units=20%"], method=Shrinker(rounds=1),
            training=bundle(),
        )  # fmt: skip


# ---- references


def test_magnitudes_are_norms_of_rows():
    model = plain()
    asked = question(model)
    for name, order in (("l1", 1), ("l2", 2)):
        scores = methods.get(name).score(asked)
        expected = model[6].weight.detach().double().norm(order, dim=1)
        np.testing.assert_allclose(scores[0], expected.numpy(), rtol=1e-6)
        assert torch.equal(
            methods.get(name).weight_scores(asked)["6.weight"], model[6].weight.detach().abs()
        )


def test_random_numbers_follow_the_seed_and_the_round():
    asked = question(plain())
    random = methods.get("random")
    first = random.score(asked)[0]
    np.testing.assert_array_equal(first, random.score(asked)[0])
    assert (first != random.score(replace(asked, seed=1))[0]).all()
    assert (first != random.score(replace(asked, round=2))[0]).all()


def test_taylor_is_the_mean_square_of_the_gradient_of_a_gate():
    model = plain().double()
    expected = torch.zeros(6, dtype=torch.float64)
    whole = [part for b in data() for part in (b.part(0, 10), b.part(10, 20), b.part(20, 30))]
    parts = [part for part in whole if len(part)]
    for part in parts:
        gate = torch.ones(6, dtype=torch.float64, requires_grad=True)
        logits = model[8](model[:8](part.args[0]) * gate)
        loss = nn.functional.cross_entropy(logits, part.target)
        expected += torch.autograd.grad(loss, gate)[0].square()
    scores = methods.Taylor(minibatch=10).score(question(model))[0]
    np.testing.assert_allclose(scores, (expected / len(parts)).numpy(), rtol=1e-9)
    with pytest.raises(errors.InputError, match="minibatch=0; expected at least 1"), unchecked():
        methods.Taylor(minibatch=0)


def test_a_masked_net_scores_its_live_weights_as_the_sliced_net_does():
    """Removed units are as good as sliced off."""
    model = plain().double()
    keep = some(question(model).graph)
    asked = question(model, keep=keep)
    names = {g.index: g.name for g in asked.graph.groups}
    plan_keep = {names[i]: np.flatnonzero(units) for i, units in keep.items()}
    small = mipp.surgery.slice_model(
        model, mipp.surgery.kept_indices(asked.graph, keep), asked.graph.aliases
    )
    for method in (SNIP(examples=None), methods.GraSP(), methods.ProsPr(batch_size=12)):
        masked = method.score(question(model, keep=keep))
        sliced = method.score(question(small))
        for group in question(small).graph.groups:
            (index,) = [i for i, name in names.items() if name == group.name]
            np.testing.assert_allclose(
                masked[index][plan_keep[group.name]], sliced[group.index], rtol=1e-7, atol=1e-15
            )
