"""Deformed images, image trees, and parts of a training split."""

import numpy as np
import pytest
import torch

from lab import deform
from lab.folder import load_folder
from lab.images import balanced_accuracy, train_images
from lab.images import test_images as images_to_test_on
from lab.measurements import Item
from mipp import data
from mipp.errors import FileError, InputError

DIGITS = data.load("digits", "train").subset(np.arange(200))


@pytest.mark.parametrize("name", deform.names())
def test_a_deformed_set_is_always_the_same_and_another_one(name):
    once, again = deform.deformed(DIGITS, name), deform.deformed(DIGITS, name)
    assert np.array_equal(once.images, again.images)
    assert np.array_equal(once.labels, DIGITS.labels)
    assert once.images.max() <= DIGITS.white
    assert (once.images != DIGITS.images).any(axis=(1, 2, 3)).mean() > 0.9


def test_the_splits_are_deformed_by_different_draws():
    test = data.Dataset(**(vars(DIGITS) | {"split": "test"}))
    noisy = [deform.deformed(each, "noisy").images for each in (DIGITS, test)]
    assert not np.array_equal(*noisy)


def test_rotation_keeps_a_disc_and_background_only_brightens():
    y, x = np.mgrid[-13.5:14.5, -13.5:14.5]
    disc = (255 * np.exp(-(x**2 + y**2) / 40)).astype(np.uint8)
    images = np.broadcast_to(disc, (8, 1, 28, 28)).copy()
    round_ones = data.Dataset(
        "discs", "train", images, np.zeros(8, np.int64), 1, 255, (0.0,), (1.0,)
    )
    turned = deform.deformed(round_ones, "rotated").images.astype(int)
    assert np.abs(turned - images).mean() < 1
    assert (deform.deformed(round_ones, "background").images >= images).all()


def test_elastic_fields_move_pixels_by_a_few_pixels():
    _, x = np.mgrid[:28, :28]
    ramp = np.broadcast_to((x * 9).astype(np.uint8), (20, 1, 28, 28)).copy()
    ramps = data.Dataset("ramp", "train", ramp, np.zeros(20, np.int64), 1, 255, (0.0,), (1.0,))
    moved = deform.deformed(ramps, "elastic").images.astype(float)
    inside = (slice(None), 0, slice(8, 20), slice(8, 20))
    shift = (moved - ramp)[inside] / 9
    # uniform in [-1, 1] smoothed by sigma: deviation 34 / sqrt(3) / (2 sqrt(pi) sigma) = 1.4
    assert 0.9 < shift.std() < 1.9


def test_an_unknown_deformation_is_refused():
    with pytest.raises(InputError, match="deformation 'bent' was given; expected one of rotated"):
        deform.deformed(DIGITS, "bent")


ITEM = {"kind": "scarce", "seed": 1, "net": {"name": "digits_cnn", "data": "digits", "epochs": 1}}


def test_a_fraction_is_balanced_and_the_test_split_stays_whole():
    item = Item.model_validate(ITEM | {"fraction": 0.1})
    part, whole = train_images(item), data.load("digits", "train")
    assert len(part) == round(0.1 * len(whole))
    counts = np.bincount(part.labels)
    assert counts.max() - counts.min() <= 1
    assert len(images_to_test_on(item)) == len(data.load("digits", "test"))
    other = train_images(item.model_copy(update={"seed": 2}))
    assert not np.array_equal(part.images, other.images)


def test_an_imbalance_leaves_the_rarest_class_one_in_so_many():
    item = Item.model_validate(ITEM | {"imbalance": 10})
    whole = np.bincount(data.load("digits", "train").labels)
    counts = np.bincount(train_images(item).labels)
    shares = counts / whole
    assert shares[0] == 1
    assert shares[-1] == pytest.approx(0.1, abs=0.005)
    assert (np.diff(shares) < 0).all()
    assert shares[3] == pytest.approx(10 ** (-3 / 9), abs=0.01)


def test_balanced_accuracy_counts_every_class_the_same():
    labels = np.array([0] * 90 + [1] * 10)
    images = np.where(labels == 0, 0, 255).astype(np.uint8)[:, None, None, None]
    some = data.Dataset("two", "test", images, labels, 3, 255, (0.0,), (1.0,))

    class Always(torch.nn.Module):
        """Answers 0, whatever it sees."""

        def __init__(self):
            super().__init__()
            self.bias = torch.nn.Parameter(torch.tensor([1.0, 0.0, 0.0]))

        def forward(self, x):
            return self.bias.expand(len(x), 3)

    model = Always()
    assert balanced_accuracy(model, some) == 0.5
    assert model.training


def tree(root, splits=("train", "val")):
    Image = pytest.importorskip("PIL.Image")
    for split in splits:
        for shade, name in ((0, "a"), (200, "b")):
            (root / split / name / "images").mkdir(parents=True)
            for number in range(3):
                picture = Image.new("RGB", (12, 8), (shade, 10 * number, 0))
                picture.save(root / split / name / "images" / f"{number}.png")
    return root


def test_a_folder_per_class_is_read_in_the_order_of_names(tmp_path):
    found = load_folder(tree(tmp_path), "train", 4)
    assert found.images.shape == (6, 3, 4, 4)
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.images[:, 0, 0, 0].tolist() == [0, 0, 0, 200, 200, 200]
    assert load_folder(tmp_path, "test", 4).num_classes == 2


def test_tiny_imagenets_validation_list_is_read(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    tree(tmp_path, ("train",))
    (tmp_path / "val" / "images").mkdir(parents=True)
    for name in ("x.png", "y.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "val" / "images" / name)
    rows = "x.png\tb\t0\t0\t1\t1\ny.png\ta\t0\t0\t1\t1\n"
    (tmp_path / "val" / "val_annotations.txt").write_text(rows)
    assert load_folder(tmp_path, "test", 8).labels.tolist() == [1, 0]


def test_trees_without_classes_and_damaged_images_are_told(tmp_path):
    with pytest.raises(FileError, match="has no folders; expected one per class"):
        load_folder(tmp_path, "train", 4)
    tree(tmp_path, ("train",))
    with pytest.raises(FileError, match="has no images for the test split"):
        load_folder(tmp_path, "test", 4)
    with pytest.raises(InputError, match="expected 'train' or 'test'"):
        load_folder(tmp_path, "valid", 4)
    (tmp_path / "train" / "a" / "images" / "0.png").write_text("no picture")
    with pytest.raises(FileError, match="cannot be read as an image"):
        load_folder(tmp_path, "train", 4)
