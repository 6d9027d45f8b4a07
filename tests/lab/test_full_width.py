"""The parts of the experiment at full width, on digits."""

import warnings
from dataclasses import replace

import pytest

from lab import experiments, wide_nets, wide_plans
from lab.experiments import full_width, full_width_retraining, full_width_tables
from lab.wide_nets import WideNet
from lab.wide_plans import Scaled, blended, macs_of, planned
from mipp import retrain

NET = WideNet("digits_cnn", "digits", replace(retrain.recipe_for("digits_cnn"), epochs=4))
START = {"net": NET.label, "samples": 256, "method": "mipp", "draw": 0}


@pytest.fixture(scope="module", autouse=True)
def _digits(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIPP_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(wide_nets, "N_VALIDATION", 200)
        patch.setitem(wide_nets.NETS, "digits_cnn", NET)
        patch.setitem(wide_plans.BUDGETS, "digits_cnn", ("macs=50%", "macs=3%"))
        patch.setattr(full_width_retraining, "N_CANDIDATES", 2)
        wide_nets.splits.cache_clear()
        planned.cache_clear()
        yield
        wide_nets.splits.cache_clear()
        planned.cache_clear()


def measured(**key):
    return experiments.measure("full_width", START | key, {})


@pytest.fixture(scope="module")
def at_once():
    return measured(part="at once")


def test_at_once_has_accuracy_widths_and_information(at_once):
    half, little = at_once["macs=50%"], at_once["macs=3%"]
    assert 0.45 < half["macs"] <= 0.5
    assert 0.015 < little["macs"] <= 0.03
    assert half["widths"] == {
        name: after
        for name, (_, after) in planned("digits_cnn", "mipp", 256, 0)
        .plans["macs=50%"]
        .widths.items()
    }
    assert 1 >= half["kept"] > little["kept"] > 0
    assert little["nats_lost"] > half["nats_lost"] > 0
    assert at_once["unpruned"]["test"] > 0.85
    assert little["refit"]["test"] > little["bare"]["test"]


def test_tuning_is_no_further_from_the_parent():
    with warnings.catch_warnings(action="ignore"):  # mirrored digits teach little
        found = measured(part="tuned", budget="macs=3%")
    before, after = found["divergence"]
    assert after <= before
    assert found["tuned"]["test"] > found["refit"]["test"] - 0.02


@pytest.mark.parametrize("variant", full_width_retraining.VARIANTS)
def test_every_variant_is_retrained_within_the_budget(variant):
    found = measured(part="retrained", budget="macs=50%", variant=variant)
    assert 0.3 < found["macs"] <= 0.5
    assert found["epochs"] == 1
    assert found["validation"] > 0.8


@pytest.mark.parametrize(("training", "epochs"), [("short", 1), ("epochs", 5), ("compute", 9)])
def test_new_weights_have_the_epochs_or_the_compute(training, epochs):
    key = {"net": NET.label, "samples": 256, "budget": "macs=50%", "draw": 0}
    found = experiments.measure("full_width", key | {"part": "scratch", "training": training}, {})
    assert found["epochs"] == epochs


def test_blended_widths_fill_the_budget():
    made = planned("digits_cnn", "mipp", 256, 0)
    plan = made.plans["macs=50%"]
    wide = {name: 4.0 * n for name, n in blended([plan, plan]).items()}
    widths = Scaled(made.model, made.batches[0], 0.5)(wide)
    small = wide_plans.mipp.plan(
        made.model, made.batches, wide_plans.of_widths(widths), method="l2", progress=False
    ).apply(refit=False)
    share = macs_of(small, made.batches[0]) / macs_of(made.model, made.batches[0])
    assert 0.4 < share <= 0.5


def test_a_net_that_is_no_other_diverges_by_nothing():
    made = planned("digits_cnn", "mipp", 256, 0)
    small = made.plans["macs=3%"].apply(refit=False)
    assert wide_plans.divergence(made.model, made.model, made.batches) == pytest.approx(0, abs=1e-6)
    assert wide_plans.divergence(made.model, small, made.batches) > 0.01


def test_tables_have_every_part(at_once):
    budgets = {"resnet20": ("macs=50%", "macs=3%")}
    rows = []
    for draw in range(4):
        row = START | at_once | {"net": "resnet20/cifar10", "draw": draw, "part": "at once"}
        shifted = {
            b: row[b] | {"kept": draw, "refit": {"test": draw / 10}} for b in budgets["resnet20"]
        }
        rows.append(row | shifted)
        trained = {"part": "retrained", "budget": "macs=3%", "variant": "plain", "epochs": 1}
        rows.append(row | trained | {"test": -draw, "validation": 0.5})
        other = {"net": "vgg16/cifar10", "budget": "macs=26.6%"}  # that the first is not pruned to
        rows.append(rows[-1] | other)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(wide_plans.BUDGETS, "resnet20", budgets["resnet20"])
        made = list(full_width_tables.tables(rows))
    assert made[0].rows[0][1] == "15.0 ± 12.9"  # the mean of 0, 10, 20 and 30 %
    assert made[1].title.startswith("resnet20/cifar10, unpruned")
    line = made[-1].rows[0]
    assert line[0] == "resnet20/cifar10"
    assert line[3] == "1.00 ± 0.00"
    assert line[5] == "-1.00"


def test_keys_name_known_parts_and_each_is_once():
    keys = [item.key for item in full_width.EXPERIMENT.all_items()]
    assert {key["part"] for key in keys} == set(full_width.PARTS)
    assert len({str(sorted(key.items())) for key in keys}) == len(keys)
