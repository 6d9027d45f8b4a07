"""Recipes: schedules by their values, guards by their texts, one for every built-in network."""

import dataclasses
import math

import pytest

from mipp import models
from mipp.errors import InputError
from mipp.retrain import Recipe, recipe_for


def test_one_cycle_climbs_from_a_tenth_and_falls_to_nothing():
    recipe = Recipe(peak_lr=0.4, schedule="one-cycle", warmup=0.25)
    rates = [recipe.learning_rate(share) for share in (0.0, 0.125, 0.25, 0.625, 1.0)]
    assert rates == pytest.approx([0.04, 0.22, 0.4, 0.2, 0.0], abs=1e-12)


def test_cosine_starts_at_the_peak():
    recipe = Recipe(peak_lr=0.4, schedule="cosine", warmup=0.9)
    rates = [recipe.learning_rate(share) for share in (0.0, 0.5, 1.0)]
    assert rates == pytest.approx([0.4, 0.2, 0.0], abs=1e-12)


def test_step_drops_at_its_milestones():
    recipe = Recipe(peak_lr=1.0, schedule="step", milestones=(0.5, 0.75), drop=0.1)
    rates = [recipe.learning_rate(share) for share in (0.0, 0.49, 0.5, 0.74, 0.75, 0.99)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_constant_is_constant():
    recipe = Recipe(peak_lr=0.3, schedule="constant")
    assert {recipe.learning_rate(share / 10) for share in range(11)} == {0.3}


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_warmup_of_nothing_or_all_is_finite(warmup):
    recipe = Recipe(warmup=warmup)
    assert all(math.isfinite(recipe.learning_rate(share / 10)) for share in range(11))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"epochs": 0}, "epochs=0 was given; expected a number above 0"),
        ({"peak_lr": -0.1}, r"peak_lr=-0\.1 was given; expected a number above 0"),
        ({"peak_lr": math.nan}, "peak_lr=nan was given"),
        ({"max_grad_norm": 0.0}, r"max_grad_norm=0\.0 was given; expected a number above 0"),
        ({"momentum": 1.5}, r"momentum=1\.5 was given; expected a share from 0 to 1"),
        ({"distill_weight": -1.0}, r"distill_weight=-1\.0 was given; expected a share"),
        ({"weight_decay": -1e-4}, r"weight_decay=-0\.0001 was given; expected 0 or more"),
        ({"milestones": (30.0, 60.0)}, r"milestones=\(30\.0, 60\.0\) were given; expected shares"),
    ],
)
def test_numbers_out_of_range_are_refused(change, text):
    with pytest.raises(InputError, match=text):
        Recipe(**change)


def test_recipes_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().epochs = 3


@pytest.mark.parametrize("name", models.names())
def test_every_built_in_network_has_a_recipe(name):
    assert recipe_for(name).epochs > 0


def test_no_built_in_recipe_asks_every_device_for_bfloat16():
    recipes = [recipe_for(name) for name in models.names()]
    assert {recipe.precision for recipe in recipes} == {"auto", "float32"}
    assert {recipe.channels_last for recipe in recipes} == {"auto", False}
    for bad in ({"precision": "half"}, {"channels_last": "no"}):
        with pytest.raises(InputError, match="expected"):
            Recipe(**bad)


def test_unknown_recipe_lists_the_known_ones():
    with pytest.raises(InputError, match=r"'lenet' was given; .*vgg16.*Did you mean 'lenet5'"):
        recipe_for("lenet")
