"""Plain weight files: read as tensors only, whatever their kind."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mipp.errors import FileError
from mipp.surgery.weight_files import read_weights


@pytest.fixture
def weights():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).state_dict()


def assert_same(found, weights):
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_safetensors(weights, tmp_path):
    save_file(weights, tmp_path / "net.safetensors")
    assert_same(read_weights(tmp_path / "net.safetensors"), weights)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
@pytest.mark.parametrize(
    "wrap",
    [
        dict,
        lambda w: {"state_dict": w, "epoch": 3},
        lambda w: {"model": w, "optimizer": {"lr": 0.1}},
        lambda w: {f"module.{name}": tensor for name, tensor in w.items()},
    ],
)
def test_pickled_tensors(weights, tmp_path, suffix, wrap):
    path = tmp_path / f"net{suffix}"
    torch.save(wrap(weights), path)
    assert_same(read_weights(str(path)), weights)


def test_a_prefix_that_not_all_have_stays(tmp_path):
    torch.save({"module.a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "net.pt")
    assert set(read_weights(tmp_path / "net.pt")) == {"module.a", "b"}


def test_no_weights_at_all(tmp_path):
    torch.save({}, tmp_path / "net.pt")
    assert read_weights(tmp_path / "net.pt") == {}


def test_pickled_model_is_not_run(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "net.pt")
    with pytest.raises(FileError, match=r"tensors only.*save model\.state_dict\(\) instead"):
        read_weights(tmp_path / "net.pt")


@pytest.mark.parametrize("left", [0, 3, 100, -1, -40])
@pytest.mark.parametrize("legacy", [True, False])
def test_truncated(weights, tmp_path, left, legacy):
    path = tmp_path / "net.pt"
    torch.save(weights, path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[:left])
    if legacy and left == -1:
        pytest.skip("the last byte of the older format is not needed")
    with pytest.raises(FileError, match="cannot be read as tensors only"):
        read_weights(path)


def test_truncated_safetensors(weights, tmp_path):
    path = tmp_path / "net.safetensors"
    save_file(weights, path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(FileError, match="not a safetensors file, or is cut short"):
        read_weights(path)


def test_other_content(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "net.pt")
    with pytest.raises(FileError, match="holds list: expected tensors by name"):
        read_weights(tmp_path / "net.pt")
    torch.save({"weight": torch.zeros(1), "epoch": 3}, tmp_path / "net.pt")
    with pytest.raises(FileError, match="holds int under 'epoch'"):
        read_weights(tmp_path / "net.pt")


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
def test_missing(tmp_path, name):
    with pytest.raises(FileError, match="cannot be read: No such file"):
        read_weights(tmp_path / name)


def test_unknown_kind(tmp_path):
    with pytest.raises(FileError, match=r"ends in .safetensors or one of .*, got '.npz'"):
        read_weights(tmp_path / "net.npz")
