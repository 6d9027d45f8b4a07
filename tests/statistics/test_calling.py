"""Batches in a form that the model does not take."""

import pytest
import torch
from torch import nn

import mipp
from mipp import errors

BUDGET = {"budget": "units=50%", "noise": 0.1}


class Both(nn.Module):
    """Two inputs of one shape; the second may be absent in the signature alone."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x, y):
        return self.c((self.a(x) + self.b(y)).relu())


class Optional(Both):
    def forward(self, x, y=None):
        return super().forward(x, y)


class Detector(nn.Module):
    """As torchvision's: takes a list of images, whose sizes may differ."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))

    def forward(self, images, targets=None):
        size = max(image.shape[-1] for image in images)
        padded = [nn.functional.pad(i, (0, size - i.shape[-1], 0, size - i.shape[-2]))
                  for i in images]  # fmt: skip
        return self.backbone(torch.stack(padded)).mean((2, 3))


def images(*sizes):
    return [torch.rand(3, size, size) for size in sizes]


@pytest.mark.parametrize("kind", [Both, Optional])
def test_two_inputs_in_a_pair_are_no_pair(kind):
    x, y = torch.randn(64, 4), torch.randn(64, 4)
    with pytest.raises(errors.CalibrationError) as caught:
        mipp.plan(kind(), [(x, y)], **BUDGET)
    assert "A pair is read as (input, target)" in str(caught.value)
    assert "((first, second), target), ((first, second), None)" in str(caught.value)
    for right in (((x, y), None), ((x, y),), {"x": x, "y": y}):
        assert mipp.plan(kind(), [right], **BUDGET).keep


def test_two_inputs_in_a_pair_for_single_weights():
    x, y = torch.randn(64, 4), torch.randn(64, 4)
    with pytest.raises(errors.CalibrationError, match="A pair is read as"):
        mipp.plan(Both(), [(x, y)], "params=50%", granularity="weight")


@pytest.mark.parametrize(
    "batch",
    [
        (images(8, 8), None),
        (images(8, 8, 8, 8), None),
        (images(8, 9), [{"boxes": torch.rand(1, 4)}] * 2),
        ((images(8, 9),), None),
        {"images": images(8, 8)},
    ],
)
def test_lists_of_images_are_refused_with_a_way_out(batch):
    model = Detector()
    with pytest.raises(
        errors.CalibrationError, match=r"Lists of images are not supported.*backbone"
    ):
        mipp.plan(model, [batch], **BUDGET)
    stacked = torch.stack(images(*[8] * 32))
    model.backbone = mipp.plan(model.backbone, [stacked], **BUDGET).apply()
    assert model(images(8, 9)).shape == (2, 4)


class Levels(nn.Module):
    """A list of features, whose first dimension counts the examples."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, levels):
        return sum(self.b(self.a(level).relu()).mean(1) for level in levels)


@pytest.mark.parametrize("n", [3, 4, 5])
def test_lists_of_other_tensors_are_taken_whatever_the_batch_size(n):
    batches = [{"levels": [torch.randn(n, 10, 6), torch.randn(n, 20, 6)]}] * 4
    assert len(mipp.plan(Levels(), batches, **BUDGET).keep["a"]) == 8


def test_images_of_different_sizes_are_to_be_resized():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    batches = [torch.rand(4, 3, 8, 8), torch.rand(4, 3, 9, 9)]
    with pytest.raises(errors.CalibrationError, match="resize or pad images to one size"):
        mipp.plan(net, batches, **BUDGET)


def test_keywords_that_forward_does_not_have():
    with pytest.raises(errors.CalibrationError, match=r"called with z=: .*Give what forward takes"):
        mipp.plan(Both(), [{"z": torch.randn(8, 4)}], **BUDGET)


def test_a_model_that_fails_for_reasons_of_its_own_is_not_told_of_pairs():
    class Broken(Both):
        def forward(self, x):
            raise KeyError("own")

    with pytest.raises(errors.CalibrationError, match="own") as caught:
        mipp.plan(Broken(), [(torch.randn(8, 4), torch.zeros(8, dtype=torch.long))], **BUDGET)
    assert "A pair" not in str(caught.value)
