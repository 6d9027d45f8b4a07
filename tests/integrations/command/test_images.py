"""The command on networks of torchvision, timm and transformers, on a folder of images."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
from typer.testing import CliRunner

from lab.experiments.packages_models import load_torchvision
from mipp.cli import app, measuring
from mipp.cli.model_names import find_network

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages, while they are imported
if find_spec("torchvision") is not None:
    load_torchvision()
SMALL = ("--input", "3,64,64", "--samples", "32", "--no-refit", "--json")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of images of three classes, as ``images:photos``."""
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    generator = np.random.default_rng(0)
    for label in ("cat", "dog", "fox"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(12):
            pixels = generator.integers(0, 256, (70, 80, 3), dtype=np.uint8)
            image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measuring, "LONGEST", 0.0)
    return tmp_path


def prune(*arguments):
    done = CliRunner().invoke(
        app, ["prune", *arguments, "--data", "images:photos", "--budget", "macs=80%"]
    )
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", "timm:test_resnet"])
def test_a_network_of_a_package_is_pruned_on_a_folder_of_images(photos, name):
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    pytest.importorskip(name.partition(":")[0], reason="timm is not installed")
    found = prune("--model", name, *SMALL)
    assert found["task"] == "image-classification"
    assert found["macs"]["after"] <= 0.8 * found["macs"]["before"]
    assert 0 <= found["accuracy"]["after"] <= 1


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18"])
def test_published_weights_bring_their_own_preparation(photos, name):
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    pytest.importorskip(name.partition(":")[0], reason="timm is not installed")
    network = find_network(name, pretrained=True)
    assert network.trained
    with image.open(photos / "photos" / "cat" / "0.png") as opened:
        tensor = network.preprocess()(opened.convert("RGB"))
    assert tensor.shape == (3, 224, 224)
    assert -3 < tensor.min() < 0 < tensor.max() < 3


def test_a_model_of_hugging_face_with_its_processor(photos):
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=4, intermediate_size=24,
        image_size=32, patch_size=8, num_labels=3,
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained("vit")
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained("vit")
    assert find_network("hf:vit").preprocess is not None
    found = prune("--model", "hf:vit", "--json")
    assert found["task"] == "image-classification"
    assert found["data"] == "images:photos"
