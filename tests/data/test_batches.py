"""Batches: the same for the same seed and epoch, normalised, augmented as described."""

import dataclasses

import numpy as np
import pytest
import torch

from mipp import data
from mipp.data.dataset import balanced_indices
from mipp.data.image_batches import MARGIN, flip_and_shift
from mipp.errors import InputError


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train")


def everything(batches, epoch=0):
    xs, ys = zip(*batches.epoch(epoch), strict=True)
    return torch.cat(xs), torch.cat(ys)


def test_all_images_come_once_in_order_and_normalised(digits):
    x, y = everything(data.Batches(digits, 100))
    assert np.array_equal(y.numpy(), digits.labels)
    pixels = x * digits.std[0] + digits.mean[0]
    torch.testing.assert_close(pixels * 16, torch.from_numpy(digits.images).float())
    assert abs(x.mean().item()) < 1e-3
    assert abs(x.std().item() - 1) < 1e-3


def test_channels_are_normalised_each_with_its_own_constants():
    images = np.full((1, 2, 4, 4), 255, dtype=np.uint8)
    two = data.Dataset(
        "two", "train", images, np.zeros(1, np.int64), 1, 255, (0.5, 0.0), (0.5, 2.0)
    )
    x, _ = next(iter(data.Batches(two)))
    assert x[0, 0].unique().tolist() == [1.0]
    assert x[0, 1].unique().tolist() == [0.5]


def test_iterating_twice_gives_the_same_and_epochs_differ(digits):
    batches = data.Batches(digits, 64, shuffle=True, augment=True, seed=5)
    again = data.Batches(digits, 64, shuffle=True, augment=True, seed=5)
    for (x, y), (x2, y2), (x3, y3) in zip(batches, batches, again.epoch(0), strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(x, x3)
        assert torch.equal(y, y2)
        assert torch.equal(y, y3)
    orders = [everything(batches, epoch)[1] for epoch in (0, 1, 2)]
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[1], orders[2])


def test_neighbouring_seeds_and_epochs_are_unrelated(digits):
    # seed + epoch as a seed would make (0, 1) and (1, 0) the same
    orders = {
        tuple(everything(data.Batches(digits, 512, shuffle=True, seed=seed), epoch)[1].tolist())
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


def test_shuffling_keeps_image_and_label_together(digits):
    labels = {
        image.tobytes(): label for image, label in zip(digits.images, digits.labels, strict=True)
    }
    x, y = everything(data.Batches(digits, 100, shuffle=True, seed=1), 3)
    pixels = ((x * digits.std[0] + digits.mean[0]) * 16).round().to(torch.uint8).numpy()
    assert [labels[image.tobytes()] for image in pixels] == y.tolist()


def test_global_generator_is_not_touched(digits):
    before = torch.get_rng_state()
    everything(data.Batches(digits, 100, shuffle=True, augment=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_number_of_batches(digits):
    for drop_last, expected in ((False, 15), (True, 14)):
        batches = data.Batches(digits, 100, drop_last=drop_last)
        sizes = [len(y) for _, y in batches]
        assert len(batches) == len(sizes) == expected
        assert sizes[:14] == [100] * 14


def test_flip_and_shift_gives_windows_of_the_image_and_mirrors_half():
    size = 8
    image = torch.arange(1, size * size + 1, dtype=torch.uint8).view(1, 1, size, size)
    padded = torch.nn.functional.pad(image, (MARGIN,) * 4)
    windows = {}  # bytes of a window -> whether it is mirrored
    for top in range(2 * MARGIN + 1):
        for left in range(2 * MARGIN + 1):
            window = padded[0, 0, top : top + size, left : left + size].numpy()
            windows[window.tobytes()] = False
            windows[window[:, ::-1].tobytes()] = True
    n_samples = 4000
    out = flip_and_shift(padded.expand(n_samples, -1, -1, -1), torch.Generator().manual_seed(0))
    assert out.shape == (n_samples, 1, size, size)
    found = [window[0].contiguous().numpy().tobytes() for window in out]
    assert set(found) == set(windows)  # nothing else, and every shift occurs
    n_mirrored = sum(windows[window] for window in found)
    assert abs(n_mirrored - n_samples / 2) < 4 * (n_samples / 4) ** 0.5


def test_augmentation_moves_all_channels_alike():
    plane = torch.randint(0, 256, (50, 1, 16, 16), dtype=torch.uint8)
    out = flip_and_shift(plane.expand(-1, 3, -1, -1), torch.Generator().manual_seed(0))
    assert torch.equal(out[:, 0], out[:, 1])
    assert torch.equal(out[:, 0], out[:, 2])


@pytest.mark.parametrize("n_samples", [1, 10, 37, 1000])
def test_calibration_is_balanced_and_has_no_image_twice(digits, n_samples):
    batches = data.calibration(digits, n_samples, batch_size=16, seed=0)
    y = torch.cat([y for _, y in batches])
    counts = torch.bincount(y, minlength=10)
    assert len(y) == n_samples
    assert counts.max() - counts.min() <= 1
    chosen = balanced_indices(digits.labels, 10, n_samples, seed=0)
    assert len(set(chosen.tolist())) == n_samples
    assert np.array_equal(digits.labels[chosen], y.numpy())


def test_calibration_depends_on_the_seed_only(digits):
    first, same, other = (data.calibration(digits, 50, seed=seed)[0][0] for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_balance_fills_up_where_a_class_is_short():
    labels = np.array([0] * 20 + [1] * 2)
    chosen = balanced_indices(labels, 2, 10, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [8, 2]


@pytest.mark.parametrize("n_samples", [0, 1439])
def test_calibration_refuses_more_than_there_is(digits, n_samples):
    with pytest.raises(InputError, match=rf"n_samples={n_samples} was given; expected 1 to 1438"):
        data.calibration(digits, n_samples)


def test_batches_refuse_what_makes_no_batch(digits):
    with pytest.raises(InputError, match="batch_size=0 was given; expected at least 1"):
        data.Batches(digits, 0)
    with pytest.raises(InputError, match="makes no batch"):
        data.Batches(digits.subset(np.arange(0)))
    with pytest.raises(InputError, match="makes no batch"):
        data.Batches(digits, 2000, drop_last=True)


def test_dataset_refuses_labels_that_do_not_fit(digits):
    with pytest.raises(InputError, match=r"labels from 0 to 9 .* expected 0 to 8"):
        dataclasses.replace(digits, num_classes=9)
    with pytest.raises(InputError, match=r"expected \(n, channels, height, width\) and \(n,\)"):
        dataclasses.replace(digits, labels=digits.labels[:-1])
