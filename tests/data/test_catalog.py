"""The data sets themselves. Those that are not embedded are tested where MIPP_DATA has them."""

import dataclasses
import os

import numpy as np
import pytest

from mipp import data
from mipp.data import catalog
from mipp.data.published_files import data_root
from mipp.errors import FileError, InputError


def present(name):
    source = catalog._SOURCES[name]
    folder = data_root(None) / source.folder
    return "MIPP_DATA" in os.environ and all(
        (folder / file).is_file() for download in source.downloads for file in download.files
    )


@pytest.fixture(params=data.names())
def loaded(request):
    name = request.param
    if name != "digits" and not present(name):
        pytest.skip(f"MIPP_DATA does not name a folder with {name}")
    return data.load(name, "train"), data.load(name, "test")


SHAPES = {
    "digits": (1438, 359, (1, 8, 8)),
    "mnist": (60_000, 10_000, (1, 28, 28)),
    "cifar10": (50_000, 10_000, (3, 32, 32)),
    "cifar100": (50_000, 10_000, (3, 32, 32)),
}


def test_sizes_types_and_classes(loaded):
    train, test = loaded
    n_train, n_test, shape = SHAPES[train.name]
    assert (len(train), len(test)) == (n_train, n_test)
    assert train.shape == test.shape == shape
    for part in loaded:
        assert part.images.dtype == np.uint8
        assert part.labels.dtype == np.int64
        assert set(part.labels.tolist()) == set(range(part.num_classes))
        assert part.images.max() == part.white


def test_constants_are_those_of_the_training_pixels(loaded):
    train, _ = loaded
    # every seventh image is enough to tell a channel mix-up from the right order
    pixels = train.images[::7].astype(np.float32) / train.white
    assert np.allclose(pixels.mean((0, 2, 3)), train.mean, atol=0.005)
    assert np.allclose(pixels.std((0, 2, 3)), train.std, atol=0.005)


def test_digits_splits_share_no_image_and_cover_all():
    train, test = data.load("digits", "train"), data.load("digits", "test")
    assert len(train) + len(test) == 1797
    seen = {image.tobytes() for image in train.images}
    assert not any(image.tobytes() in seen for image in test.images)


def test_load_reads_a_folder_in_the_publishers_layout(monkeypatch, tmp_path):
    source = catalog._SOURCES["cifar10"]
    files = {"train": (("data_batch_1.bin", "data_batch_2.bin"), 3), "test": ((), 0)}
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for k in (1, 2):
        records = np.full((3, 3073), k, dtype=np.uint8)
        (folder / f"data_batch_{k}.bin").write_bytes(records.tobytes())
    small = dataclasses.replace(source, parts=files, downloads=())
    monkeypatch.setattr(catalog, "_SOURCES", {"cifar10": small})
    loaded = data.load("cifar10", "train", root=tmp_path)
    assert loaded.labels.tolist() == [1, 1, 1, 2, 2, 2]
    assert loaded.images.shape == (6, 3, 32, 32)
    assert loaded.images[3:].min() == loaded.images[3:].max() == 2


def test_truncated_file_in_a_complete_folder_is_an_error(tmp_path):
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    for name in ("train.bin", "test.bin"):
        (folder / name).write_bytes(bytes(100))
    with pytest.raises(FileError, match=r"test\.bin .* has 100 bytes, expected 30740000"):
        data.load("cifar100", "test", root=tmp_path)


def test_unknown_name_and_split_are_refused():
    with pytest.raises(InputError, match=r"'cifar' was given; expected one of digits, mnist"):
        data.load("cifar")
    with pytest.raises(InputError, match=r"split 'val' of digits .*'train' or 'test'"):
        data.load("digits", "val")
