"""Made scenes and their U-Net."""

from dataclasses import replace

import pytest
import torch

import mipp
from lab.experiments import scenes as made
from lab.experiments import segmentation
from lab.experiments.scenes import INK, N_CLASSES, NOISE, UNet, dice
from mipp import data


@pytest.fixture(autouse=True)
def _little(monkeypatch, tmp_path):
    digits = data.load("digits", "train")
    larger = digits.images.repeat(4, axis=2).repeat(4, axis=3)[:, :, 2:30, 2:30]
    monkeypatch.setattr(
        made.data, "load", lambda _name, _split: mipp.data.Dataset(
            "mnist", "train", larger, digits.labels, 10, digits.white, digits.mean, digits.std
        ),
    )  # fmt: skip
    monkeypatch.setenv("MIPP_CACHE", str(tmp_path))
    for cached in (made.scenes, segmentation.parent):
        cached.cache_clear()
    yield
    for cached in (made.scenes, segmentation.parent):
        cached.cache_clear()


def test_every_pixel_of_ink_has_the_class_of_its_digit():
    images, classes = made.scenes("train", 40, 0)
    assert images.shape == (40, 1, 64, 64)
    assert set(classes.unique().tolist()) == set(range(N_CLASSES))
    assert float(images[classes[:, None] > 0].mean()) > INK
    assert abs(float(images[classes[:, None] == 0].mean())) < 0.02
    assert float(images[classes[:, None] == 0].std()) == pytest.approx(NOISE, rel=0.02)
    again, _ = made.scenes.__wrapped__("train", 40, 0)
    assert torch.equal(again, images)


class _Says(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.classes = classes

    def forward(self, x):
        return torch.nn.functional.one_hot(self.classes[: len(x)], N_CLASSES).movedim(-1, 1)


def test_dice_is_one_for_the_right_classes_and_counts_both_kinds_of_error():
    classes = torch.arange(N_CLASSES).repeat(2, 4, 1)
    images = torch.zeros(2, 1, 4, N_CLASSES)
    assert dice(_Says(classes), images, classes) == 1
    wrong = classes.clone()
    wrong[:, :2, 1] = 0  # half of the pixels of class 1 are missed: 2 * 4 / (4 + 8)
    assert dice(_Says(wrong), images, classes) == pytest.approx((9 + 2 / 3) / 10)
    wrong = classes.clone()
    wrong[:, :2, 0] = 1  # and here half as many are added: 2 * 8 / (8 + 12)
    assert dice(_Says(wrong), images, classes) == pytest.approx((9 + 4 / 5) / 10)


@pytest.mark.filterwarnings("ignore::mipp.errors.CalibrationWarning")
def test_a_small_u_net_is_measured_at_all_budgets(monkeypatch):
    for name, value in {"N_TRAIN": 32, "N_TEST": 20, "N_CALIBRATION": 32, "EPOCHS": 1}.items():
        monkeypatch.setattr(segmentation, name, value)
    monkeypatch.setattr(segmentation, "UNet", lambda: UNet(4, 2))
    monkeypatch.setattr(segmentation, "TUNE", replace(segmentation.TUNE, passes=2))
    found = segmentation.measure({"method": "l2", "draw": 0}, {})
    for budget, share in zip(segmentation.BUDGETS, (0.5, 0.25, 0.1), strict=True):
        assert found[budget]["macs"] <= share
        assert set(found[budget]) == {*segmentation.KINDS, "macs"}
    table = next(iter(segmentation.tables([{"method": "l2", "draw": 0} | found])))
    assert len(table.rows) == len(segmentation.BUDGETS)
