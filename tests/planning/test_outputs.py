"""Which outputs matter: what only the others need can go, and they have no say in the loss."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mipp
from mipp.errors import InputError

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
Y = X[:, 0].gt(0).long()


class Detector(nn.Module):
    """Returns its features beside the answer, as detectors do in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(12, 2)
        self.beside = nn.Linear(12, 5)

    def forward(self, x):
        features = F.relu(self.b(F.relu(self.a(x))))
        return self.c(features), {"features": features, "beside": self.beside(features)}


def answer(output):
    return output[0]


def everything(output):
    return output[0], output[1]["features"], output[1]["beside"]


def detector():
    torch.manual_seed(0)
    return Detector().eval()


def test_what_only_other_outputs_hold_can_be_pruned():
    model = detector()
    whole = mipp.plan(model, [X], budget="units=50%")
    plan = mipp.plan(model, [X], budget="units=50%", outputs=answer)
    assert set(whole.keep) == {"a"}
    assert set(plan.keep) == {"a", "b"}
    assert plan.model is model
    assert type(model) is Detector
    masked, small = plan.mask(), plan.apply(refit=False)
    assert type(masked) is type(small) is type(plan.apply()) is Detector
    torch.testing.assert_close(masked(X)[0], small(X)[0])
    assert small(X)[1]["features"].shape == (64, len(plan.keep["b"]))
    assert plan.record.options["outputs"].endswith("test_outputs:answer")


def test_the_loss_is_that_of_the_outputs_picked():
    model = detector()
    alone = mipp.plan(model, [X], budget="units=50%", outputs=answer).record.options["loss"]
    assert alone == "one output of shape (batch, 2) and no targets"

    class Alone(Detector):
        def forward(self, x):
            return super().forward(x)[0]

    same = Alone().eval()
    same.load_state_dict(model.state_dict())
    expected = mipp.plan(same, [X], budget="units=50%")
    found = mipp.plan(model, [X], budget="units=50%", outputs=answer)
    assert found.keep == expected.keep
    assert found.summary == expected.summary


@pytest.mark.parametrize(
    "options",
    [{"method": "taylor"}, {"rounds": 2}, {"target": "outputs", "noise": 0.1}, {"method": "l1"}],
    ids=str,
)
def test_other_ways_of_planning_see_the_same_outputs(options):
    model = detector()
    plan = mipp.plan(model, [(X, Y)], budget="units=50%", outputs=answer, **options)
    assert set(plan.keep) == {"a", "b"}
    assert plan.model is model
    torch.testing.assert_close(plan.mask()(X)[0], plan.apply(refit=False)(X)[0])


def test_methods_that_train_give_a_model_of_the_class():
    model = detector()
    recipe = mipp.retrain.Recipe(epochs=1)
    plan = mipp.plan(
        model, [(X, Y)], budget="units=50%", outputs=answer, method="imp",
        training=mipp.Training([(X, Y)], recipe),
    )  # fmt: skip
    assert type(plan.model) is Detector
    assert plan.model is not model
    assert isinstance(plan.apply()(X), tuple)


def test_several_budgets_single_weights_and_information_kept():
    model = detector()
    plans = mipp.plans(model, [X], ["units=75%", "units=50%"], outputs=answer)
    assert all(plan.model is model and set(plan.keep) == {"a", "b"} for plan in plans)
    weights = mipp.plan(model, [X], "params=60%", granularity="weight", outputs=answer, noise=0.1)
    assert weights.model is model
    assert weights.record.options["outputs"].endswith(":answer")
    assert isinstance(weights.apply()(X), tuple)
    kept = mipp.information_kept(model, [X], plans[1], outputs=answer)
    assert {one.group for one in kept} == {"a", "b"}
    small = mipp.prune(model, [X], "units=50%", outputs=answer)
    assert type(small) is Detector


def test_a_plan_is_read_with_the_function_that_it_was_made_with():
    model = detector()
    plan = mipp.plan(model, [X], budget="units=50%", outputs=answer)
    again = mipp.Plan.from_json(plan.to_json(), model, [X], outputs=answer)
    assert again.keep == plan.keep
    torch.testing.assert_close(again.mask()(X)[0], plan.mask()(X)[0])
    torch.testing.assert_close(again.apply()(X)[0], plan.apply()(X)[0])
    mipp.Plan.from_json(plan.to_json(), model).apply(refit=False)
    with pytest.raises(InputError, match=r"test_outputs:answer picks.*without it.*outputs="):
        mipp.Plan.from_json(plan.to_json(), model, [X])
    whole = mipp.plan(model, [X], budget="units=50%")
    with pytest.raises(InputError, match=r"made for all outputs.*Leave it out"):
        mipp.Plan.from_json(whole.to_json(), model, [X], outputs=answer)


def test_a_plan_of_single_weights_is_tuned_with_the_function_that_it_was_made_with():
    model, examples = detector(), [X, X]
    plan = mipp.plan(model, examples, "params=60%", granularity="weight", outputs=answer, noise=0.1)
    read = mipp.WeightPlan.from_json
    bare = read(plan.to_json(), model, examples)
    with pytest.raises(InputError, match=r"without it.*mipp\.WeightPlan\.from_json\(.*outputs="):
        bare.apply_tuned()
    again = read(plan.to_json(), model, examples, outputs=answer)
    with warnings.catch_warnings(action="ignore"):  # one pass may not be worth it
        tuned = again.apply_tuned(mipp.Tune(passes=1), progress=False)[1]
    assert tuned.examples[0] > 0


def test_all_outputs_picked_are_as_all_outputs():
    model = detector()
    plan = mipp.plan(model, [X], budget="units=50%", outputs=everything)
    assert plan.keep == mipp.plan(model, [X], budget="units=50%").keep


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ("0", "outputs='0'; expected a function"),
        (lambda output: output["logits"], "failed with TypeError.*returns a tuple.*expected"),
        (lambda output: None, "picks a NoneType without tensors; expected"),
    ],
    ids=["no function", "fails", "nothing"],
)
def test_functions_that_pick_nothing_are_refused(outputs, text):
    with pytest.raises(InputError, match=text):
        mipp.plan(detector(), [X], budget="units=50%", outputs=outputs)


def with_outputs(n):
    """A regressor whose first output alone depends on anything."""
    torch.manual_seed(0)
    first, own, last = nn.Linear(6, 16), torch.randn(16), nn.Linear(16, n)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
        last.weight[0] = own
    return nn.Sequential(first, nn.Tanh(), last)


def test_a_single_output_says_as_much_as_beside_one_that_is_constant():
    examples = [torch.randn(256, 6, generator=torch.Generator().manual_seed(k)) for k in range(4)]
    alone, beside = (
        mipp.plan(with_outputs(n), examples, "units=50%", loss="gaussian", progress=False)
        for n in (1, 2)
    )
    assert alone.keep == beside.keep
    assert alone.summary[0].nats_before == pytest.approx(beside.summary[0].nats_before, rel=0.2)
