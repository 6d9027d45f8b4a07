"""Files that say what builds their model, and what they say about it."""

import json

import pytest
import torch
from safetensors import safe_open
from torch import nn

import mipp
from mipp.errors import FileError, InputError

LENET = [torch.randn(32, 1, 28, 28, generator=torch.Generator().manual_seed(0))]


def pruned(model, batches, budget="units=50%"):
    return mipp.prune(model, batches, budget, method="l2", refit=False)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def test_a_built_in_network_needs_nothing_but_its_file(tmp_path):
    model = mipp.models.build("lenet5", width=0.5, num_classes=7, in_channels=1, seed=0).eval()
    small = pruned(model, LENET)
    path = tmp_path / "small.safetensors"
    mipp.save(small, path)
    before = torch.get_rng_state()
    back = mipp.load(path)
    assert torch.equal(torch.get_rng_state(), before)
    assert not back.training
    assert torch.equal(back(*LENET), small(*LENET))
    assert mipp.original_indices(back) == mipp.original_indices(small)
    # and once more from what was loaded
    mipp.save(pruned(back, LENET), tmp_path / "smaller.safetensors")
    again = mipp.load(tmp_path / "smaller.safetensors")
    info = mipp.inspect_file(tmp_path / "smaller.safetensors")
    assert [plan.budget for plan in info.plans] == ["units=50%", "units=50%"]
    assert info.widths["conv1.weight", 0] == (10, again.conv1.out_channels)
    assert info.plans[0].after == info.plans[1].before


def test_number_types_are_those_of_the_file(tmp_path):
    model = mipp.models.build("mlp", seed=0).to(torch.bfloat16)
    mipp.save(model, tmp_path / "half.safetensors")
    assert {p.dtype for p in mipp.load(tmp_path / "half.safetensors").parameters()} == {
        torch.bfloat16
    }


def test_a_network_that_was_changed_after_it_was_built_is_not_taken_for_the_one_it_was(tmp_path):
    wider = mipp.models.build("lenet5", seed=0)
    wider.fc2 = nn.Linear(wider.fc2.in_features, 3)
    other = mipp.models.build("resnet20", seed=0)
    other.bn1 = nn.BatchNorm2d(16, eps=0.5)  # of the same shapes
    strided = mipp.models.build("lenet5", seed=0)
    strided.conv1.stride = (2, 2)
    alike = mipp.models.build("lenet5", seed=0)
    alike.fc2.__class__ = type("Linear", (nn.Linear,), {"forward": lambda self, x: x})
    assert str(alike) == str(mipp.models.build("lenet5"))
    for model in (wider, other, strided, alike):
        mipp.save(model, tmp_path / "own.safetensors")
        assert mipp.inspect_file(tmp_path / "own.safetensors").model is None
        with pytest.raises(FileError, match=r"model of your own. Give what builds.*factory="):
            mipp.load(tmp_path / "own.safetensors")


def test_other_models_need_a_factory(tmp_path):
    path = tmp_path / "own.safetensors"
    small = pruned(Net(), [torch.randn(16, 4)])
    mipp.save(small, path)
    with pytest.raises(FileError, match=r"model of your own\. .*mipp\.load\(path, factory=make_m"):
        mipp.load(path)
    x = torch.randn(5, 4)
    for back in (mipp.load(path, factory=Net), mipp.load(Net, path), mipp.load(Net(), path)):
        assert torch.equal(back(x), small(x))
    for wrong in (lambda: mipp.load(Net), mipp.load):
        with pytest.raises(InputError, match=r"expected the path of a file, as in mipp\.load\(pat"):
            wrong()
    with pytest.raises(InputError, match="both a model and factory="):
        mipp.load(Net, path, factory=Net)


def test_code_that_a_file_names_is_not_imported(tmp_path):
    from mipp.origin import Source
    from mipp.surgery import save

    for name, why in {
        "os:system": "which os:system builds. Give what builds",
        "nothing": "which nothing builds. Give what builds",
        "hf:pipeline": "transformers has no model 'pipeline'",
    }.items():
        if name.startswith("hf:"):
            pytest.importorskip("transformers", reason="transformers is not installed")
        save(Net(), tmp_path / "named.safetensors", source=Source(name, {"config": {}}))
        with pytest.raises(FileError, match=why):
            mipp.load(tmp_path / "named.safetensors")


def test_a_package_that_is_absent_is_named(tmp_path, monkeypatch):
    import sys

    from mipp.origin import Source
    from mipp.surgery import save

    monkeypatch.setitem(sys.modules, "timm", None)
    save(Net(), tmp_path / "named.safetensors", source=Source("timm:resnet18"))
    with pytest.raises(FileError, match=r"timm:resnet18, which cannot be built.*timm.*Install"):
        mipp.load(tmp_path / "named.safetensors")


def test_a_file_says_its_model_widths_budgets_and_versions(tmp_path):
    path = tmp_path / "small.safetensors"
    plan = mipp.plan(mipp.models.build("lenet5", seed=0), LENET, "params=20%", method="l2")
    mipp.save(plan.apply(refit=False), path, extra={"accuracy": 0.5})
    info = mipp.inspect_file(path)
    assert (info.model, info.loads_alone) == ("lenet5", True)
    assert info.arguments == {"width": 1.0, "num_classes": 10, "in_channels": 1}
    assert info.widths["conv1.weight", 0] == (20, len(plan.keep["conv1"]))
    (applied,) = info.plans
    assert (applied.method, applied.budget) == ("l2", "params=20%")
    assert applied.before["params"] == plan.before.params
    assert applied.after["params"] == plan.after.params == info.parameters
    assert info.extra == {"accuracy": 0.5}
    assert info.versions == {"torch": torch.__version__}
    lines = str(info).splitlines()
    assert (
        lines[0]
        == f"{path}: lenet5 (width=1.0, num_classes=10, in_channels=1), {info.parameters:,} numbers"
    )
    assert lines[1] == "load with: mipp.load(path)"
    assert lines[2].startswith("pruned by l2 to params=20%: macs 2,293,000 -> ")
    assert f"  conv1: 20 -> {len(plan.keep['conv1'])}" in lines
    assert lines[-1] == f"written by mipp {info.mipp_version}, torch {torch.__version__}"
    assert repr(info) == str(info)


def test_a_file_of_an_unknown_model_says_so(tmp_path):
    mipp.save(Net(), tmp_path / "own.safetensors")
    info = mipp.inspect_file(tmp_path / "own.safetensors")
    assert info.model is None
    assert str(info).splitlines()[:2] == [
        f"{tmp_path}/own.safetensors: a model of unknown class, 58 numbers",
        "load with: mipp.load(path, factory=...)",
    ]


def test_zeros_are_counted_in_the_shapes_they_have(tmp_path):
    plan = mipp.plan(mipp.models.build("mlp", seed=0), [torch.randn(16, 1, 28, 28)], "params=30%",
                     granularity="weight", method="l2")  # fmt: skip
    mipp.save(plan.apply(refit=False), tmp_path / "sparse.safetensors")
    info = mipp.inspect_file(tmp_path / "sparse.safetensors")
    assert info.parameters == 266_610
    assert info.plans[0].after["params"] <= 0.3 * 266_610
    assert info.loads_alone


def test_files_of_before_these_fields_are_read_as_ever(tmp_path):
    path = tmp_path / "own.safetensors"
    mipp.surgery.save(Net(), path)
    with safe_open(path, "pt") as file:
        record = json.loads(file.metadata()["mipp"])
    assert "source" not in record
    assert "plans" not in record
    assert mipp.inspect_file(path).plans == ()


def test_transformers_models_need_nothing_but_their_file(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        num_hidden_layers=2, num_attention_heads=4, hidden_size=16, vocab_size=30,
        max_position_embeddings=16, intermediate_size=20, num_labels=3,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).eval()
    batch = {"input_ids": torch.randint(3, 30, (8, 6))}
    small = pruned(model, [batch])
    mipp.save(small, tmp_path / "bert.safetensors")
    back = mipp.load(tmp_path / "bert.safetensors")
    assert torch.equal(back(**batch).logits, small(**batch).logits)
    info = mipp.inspect_file(tmp_path / "bert.safetensors")
    assert info.model == "hf:BertForSequenceClassification"
    assert info.versions["transformers"] == transformers.__version__
