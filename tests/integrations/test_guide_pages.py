"""The Python of guides that need packages of others runs as it stands."""

import re
from pathlib import Path

import pytest
import torch

from tests.docs.test_pages import blocks_of

GUIDES = Path(__file__).parents[2] / "docs" / "guides"

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # a reader sees them


def run(page, packages, folder, monkeypatch):
    """The names that the code of the page leaves."""
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed: make integrations")
    monkeypatch.chdir(folder)
    names: dict = {"__name__": "page"}
    for code, _ in blocks_of((GUIDES / page).read_text()):
        exec(compile(code, page, "exec"), names)
    return names


def test_pruning_while_training(tmp_path, monkeypatch, capsys):
    packages = ("lightning", "transformers", "accelerate")
    names = run("pruning-while-training.md", packages, tmp_path, monkeypatch)
    printed = re.findall(r"'round': (\d)", capsys.readouterr().out)
    assert printed == ["1", "2", "3"] * 3  # Lightning, Trainer, a loop of one's own
    assert names["prune"].rounds.done == 3
    (small, whole) = (sum(p.numel() for p in net.parameters()) for net in (
        names["fresh"].net, names["network"]()
    ))  # fmt: skip
    assert small < whole / 2
    assert (tmp_path / "small.safetensors").is_file()


def test_quantize_and_export(tmp_path, monkeypatch):
    packages = ("torchao", "openvino", "onnxruntime")
    names = run("quantize-and-export.md", packages, tmp_path, monkeypatch)
    batch, small = names["batch"], names["small"]
    with torch.no_grad():
        wanted = small(batch)
        scale = wanted.abs().max()
        for made in (names["int8"], names["quantized"]):
            assert (made(batch) - wanted).abs().max() < 0.05 * scale
        again = torch.export.load("small.pt2").module()(batch)
    torch.testing.assert_close(again, wanted)
    assert {path.name for path in tmp_path.iterdir()} >= {
        "pruned.safetensors", "small.pt2", "small.xml", "small.onnx",
    }  # fmt: skip
