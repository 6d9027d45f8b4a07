"""Pruned models of torchvision and timm need nothing but their file."""

import pytest
import torch
from torch import nn

import mipp
from mipp.errors import FileError

# timm's networks hold widths that their forward does not read
pytestmark = pytest.mark.filterwarnings("ignore:.*as wide as something that was pruned")
TORCHVISION = ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5"]
TIMM = ["resnet10t", "convnext_atto", "vit_tiny_patch16_224"]


def check(model, name, x, tmp_path):
    small = mipp.prune(model.eval(), [x], "units=90%", method="l2", refit=False)
    mipp.save(small, tmp_path / "small.safetensors")
    info = mipp.inspect_file(tmp_path / "small.safetensors")
    assert info.model == name
    assert name.partition(":")[0] in info.versions
    back = mipp.load(tmp_path / "small.safetensors")
    with torch.no_grad():
        assert torch.equal(back(x), small(x))


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name, tmp_path):
    models = pytest.importorskip("torchvision", reason="torchvision is not installed").models
    model = models.get_model(name, weights=None, num_classes=5)
    check(model, f"torchvision:{name}", torch.randn(2, 3, 224, 224), tmp_path)


@pytest.mark.parametrize("name", TIMM)
def test_timm(name, tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    model = timm.create_model(name, pretrained=False, num_classes=5, in_chans=1)
    check(model, f"timm:{name}", torch.randn(2, 1, 224, 224), tmp_path)


def test_what_is_not_as_the_package_builds_it_is_not_named(tmp_path):
    models = pytest.importorskip("torchvision", reason="torchvision is not installed").models
    changed = models.resnet18(weights=None)
    changed.relu = nn.GELU()
    mipp.save(changed, tmp_path / "changed.safetensors")
    with pytest.raises(FileError, match="model of your own"):
        mipp.load(tmp_path / "changed.safetensors")
