"""Parents at full width: their images, smaller ones first, and trainings that go on."""

from dataclasses import replace

import pytest
import torch

from lab import wide_nets
from lab.wide_nets import SmallFirst, WideNet
from mipp import data, retrain

RECIPE = replace(retrain.recipe_for("digits_cnn"), epochs=2)
NET = WideNet("digits_cnn", "digits", RECIPE)


@pytest.fixture(autouse=True)
def _few_images(monkeypatch, tmp_path):
    monkeypatch.setenv("MIPP_CACHE", str(tmp_path))
    monkeypatch.setattr(wide_nets, "N_VALIDATION", 200)
    wide_nets.splits.cache_clear()
    yield
    wide_nets.splits.cache_clear()


def test_no_image_for_validation_is_learned_from():
    learned, held_out = wide_nets.splits("digits")
    whole = data.load("digits", "train")
    assert len(held_out) == 200
    assert len(learned) + 200 == len(whole)
    together = sorted(image.tobytes() for part in (learned, held_out) for image in part.images)
    assert together == sorted(image.tobytes() for image in whole.images)


def test_first_epochs_have_fewer_pixels():
    batches = data.Batches(wide_nets.splits("digits")[0], 64)
    small = SmallFirst(batches, ((1, 4), (1, 6)))
    sides = [next(iter(small.epoch(epoch)))[0].shape[2:] for epoch in range(4)]
    assert sides == [(4, 4), (6, 6), (8, 8), (8, 8)]
    x, y = next(iter(small.epoch(0)))
    whole, labels = next(iter(batches.epoch(0)))
    torch.testing.assert_close(x, torch.nn.functional.avg_pool2d(whole, 2))
    assert torch.equal(y, labels)


def test_a_training_that_was_cut_short_goes_on_to_the_same_parent(monkeypatch, tmp_path):
    whole = wide_nets.parent(NET, 0, progress=False)
    path = wide_nets.path_of(NET, 0)
    path.unlink()
    recipes = retrain.train

    def cut_short(model, batches, recipe, **options):
        def stop(_record):
            raise KeyboardInterrupt

        return recipes(model, batches, recipe, on_epoch=stop, **options)

    monkeypatch.setattr(retrain, "train", cut_short)
    with pytest.raises(KeyboardInterrupt):
        wide_nets.parent(NET, 0, progress=False)
    assert path.with_suffix(".run").exists()
    assert not path.exists()
    monkeypatch.setattr(retrain, "train", recipes)
    again = wide_nets.parent(NET, 0, progress=False)
    assert not path.with_suffix(".run").exists()
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    monkeypatch.setattr(retrain, "train", None)  # what lies in the cache is not trained again
    assert not wide_nets.parent(NET, 0).training


def test_a_parent_that_comes_with_the_code_is_taken(monkeypatch, tmp_path):
    trained = wide_nets.parent(NET, 0, progress=False)
    path = wide_nets.path_of(NET, 0)
    monkeypatch.setattr(wide_nets, "TRAINED", tmp_path / "trained")
    (tmp_path / "trained").mkdir()
    path.rename(wide_nets.TRAINED / path.name)
    again = wide_nets.parent(NET, 0, progress=False)
    assert not path.exists()
    torch.testing.assert_close(again.state_dict(), trained.state_dict(), rtol=0, atol=0)


def test_parents_that_come_with_the_code_are_of_its_recipes():
    names = {wide_nets.path_of(net, 0).name for net in wide_nets.NETS.values()}
    found = {path.name for path in wide_nets.TRAINED.iterdir()}
    assert found
    assert found <= names
