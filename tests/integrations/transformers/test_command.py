"""The command prunes a folder that mipp wrote, and what it writes needs no factory."""

import json

import pytest
import torch
from typer.testing import CliRunner

import mipp
from mipp.cli import app
from mipp.integrations.transformers import from_pretrained, save_pretrained
from tests.integrations.transformers.models import CASES, transformers

OWN_DATA = """
import torch
draw = torch.Generator().manual_seed(0)
batches = [(torch.randn(32, 3, 8, 8, generator=draw), torch.arange(32) % 4) for _ in range(3)]

def data():
    return batches, batches[:1]
"""


@pytest.mark.filterwarnings("ignore:.*is no ordinary checkpoint")
def test_a_pruned_folder_is_pruned_on_and_what_is_written_loads_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_images.py").write_text(OWN_DATA)
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=20,
        image_size=8, patch_size=4, num_labels=4,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    x = CASES["vit"].batch()
    groups = mipp.plan(model, [x], "units=99%", method="l2").summary
    neurons = [group.name for group in groups if group.units_before == 20]
    small = mipp.plan(model, [x], widths={neurons[0]: 12, neurons[1]: 16}, method="l2").apply()
    assert not save_pretrained(small, "once").ordinary
    arguments = [
        "prune", "--model", "hf:once", "--data", "my_images:data", "--budget", "macs=70%",
        "--method", "l2", "--allocation", "kinds", "--out", "twice.safetensors", "--json",
    ]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["macs"]["after"] <= 0.7 * said["macs"]["before"]
    before = {group["name"]: group["units"]["before"] for group in said["groups"]}
    assert sorted(before.values()) == [4, 4, 12, 16]
    info = mipp.inspect_file("twice.safetensors")
    assert (info.model, info.loads_alone) == ("hf:ViTForImageClassification", True)
    assert [plan.budget for plan in info.plans][-1] == "macs=70%"
    back = mipp.load("twice.safetensors")
    save_pretrained(back, "folder")
    with torch.no_grad():
        assert torch.equal(from_pretrained("folder")(**x).logits, back(**x).logits)
