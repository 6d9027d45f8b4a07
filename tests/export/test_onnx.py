"""ONNX files say what the model says, at any batch size, or there is no file."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import mipp
from mipp.errors import FileError, InputError, SurgeryError
from mipp.export import OnnxSession, onnx_file
from mipp.export.flat import input_names, named_outputs

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


class Conv(nn.Module):
    """Image in, logits out; counts its calls."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3)
        )
        self.head = nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.head(self.body(x).relu().mean((2, 3)))


@dataclass
class Answer:
    """Like the records of transformers."""

    logits: torch.Tensor
    hidden: torch.Tensor


class Several(nn.Module):
    """A sequence and its mask, a flag that is no tensor; a record with two outputs."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 12)
        self.second = nn.Linear(12, 3)

    def forward(self, x, mask, shift=False):
        hidden = self.first(x).relu() * mask.unsqueeze(-1)
        logits = self.second(hidden.sum(1))
        return Answer(logits + 1 if shift else logits, hidden)


class Fixed(nn.Module):
    """Spells the size of its batch."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x.reshape(4, 4))


def images(n=8):
    return torch.randn(n, 2, 6, 6, generator=torch.Generator().manual_seed(0))


def test_a_pruned_model_says_the_same_in_onnxruntime_at_several_batch_sizes(tmp_path):
    model, x = Conv().train(), images(64)
    small = mipp.prune(model, [x], "units=50%").train()
    before = copy.deepcopy(small.state_dict())
    made = mipp.export.export_onnx(small, x, tmp_path / "small.onnx")
    assert made.inputs == ("x",)
    assert made.outputs == ("output",)
    assert made.batch_sizes == (1, 3)
    assert made.difference < 1e-5
    assert made.size == (tmp_path / "small.onnx").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())
    assert all(module.training for module in small.modules())
    (found,) = OnnxSession(made.path)(x[:7])
    torch.testing.assert_close(found, small.eval()(x[:7]).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["dict", "tuple"])
def test_several_inputs_and_outputs_have_the_names_of_the_code(tmp_path, how):
    model = Several()
    x, mask = torch.randn(4, 7, 5), torch.ones(4, 7)
    batch = {"mask": mask, "x": x, "shift": True} if how == "dict" else ((x, mask, True), None)
    made = mipp.export.export_onnx(model, batch, tmp_path / "net.onnx")
    assert made.inputs == (("mask", "x") if how == "dict" else ("x", "mask"))
    assert made.outputs == ("logits", "hidden")
    given = {"x": x[:1], "mask": mask[:1]}
    found = OnnxSession(made.path)(*(given[name] for name in made.inputs))
    expected = model(x[:1], mask[:1], True)
    torch.testing.assert_close(found[0], expected.logits.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], expected.hidden.detach(), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match=r"takes 2 inputs .* and 1 were given"):
        OnnxSession(made.path)(x)


def test_texts_of_other_lengths_run_where_the_length_is_left_open(tmp_path):
    torch.manual_seed(0)
    model, path = Several(), tmp_path / "several.onnx"
    whole = {"x": torch.randn(4, 8, 5), "mask": torch.ones(4, 8)}
    made = mipp.export.export_onnx(model, whole, path, dynamic_length=True)
    assert made.batch_sizes == (1, 3)
    short = torch.randn(2, 3, 5), torch.ones(2, 3)
    with torch.no_grad():
        torch.testing.assert_close(OnnxSession(path)(*short)[1], model(*short).hidden)
    with pytest.raises(InputError, match=r"dynamic_length needs an input of shape \(batch, length"):
        mipp.export.export_onnx(nn.Linear(3, 2), torch.randn(3), path, dynamic_length=True)


def test_names_of_what_is_nested():
    class Nested(nn.Module):
        def forward(self, first, *rest, **named):
            return first

    x = torch.zeros(2)
    assert input_names(Nested(), ((x, x, x), {"pair": (x, x)})) == [
        "first", "rest_1", "rest_2", "pair_0", "pair_1",
    ]  # fmt: skip
    names = [name for name, _ in named_outputs({"a": x, "b": [x, {"c": x}]})]
    assert names == ["a", "b_0", "b_1_c"]
    assert [name for name, _ in named_outputs((x, 3, x))] == ["output_0", "output_2"]


def test_a_model_of_one_batch_size_is_exported_for_that_one(tmp_path):
    x = torch.randn(4, 4)
    with pytest.raises(SurgeryError, match=r"Fixed cannot be exported.*dynamic_batch=False"):
        mipp.export.export_onnx(Fixed(), x, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())
    made = mipp.export.export_onnx(Fixed(), x, tmp_path / "net.onnx", dynamic_batch=False)
    assert made.batch_sizes == (4,)


def test_other_numbers_leave_the_file_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    path.write_text("as before")
    run = OnnxSession.forward

    def wrong_for_three(self, *tensors):
        (found,) = run(self, *tensors)
        return (found + 0.5 * (len(found) == 3),)

    monkeypatch.setattr(OnnxSession, "forward", wrong_for_three)
    with pytest.raises(SurgeryError, match=r"other numbers than Conv at batch size 3: .*tolerance"):
        mipp.export.export_onnx(Conv(), images(), path)
    assert path.read_text() == "as before"
    assert [other.name for other in tmp_path.iterdir()] == ["net.onnx"]
    made = mipp.export.export_onnx(Conv(), images(), path, tolerance=1e3)
    assert made.difference > 0.01


def test_what_cannot_be_exported_is_said(tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    with pytest.raises(InputError, match="fails on the batch: RuntimeError"):
        mipp.export.export_onnx(Conv(), torch.randn(2, 5, 6, 6), path)
    with pytest.raises(FileError, match="a folder that exists"):
        mipp.export.export_onnx(Conv(), images(), tmp_path / "none" / "net.onnx")
    with pytest.raises(InputError, match=r"net.foo: .*ends in .onnx. Give such a name"):
        mipp.export.export_onnx(Conv(), images(), tmp_path / "net.foo")
    (tmp_path / "bad.onnx").write_text("no network")
    with pytest.raises(FileError, match="onnxruntime cannot read"):
        OnnxSession(tmp_path / "bad.onnx")
    monkeypatch.setattr("mipp.export.onnx_file.LARGEST", 100)
    with pytest.raises(InputError, match="holds 100 at most"):
        mipp.export.export_onnx(Conv(), images(), path)
    assert not path.exists()


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    find = onnx_file.importlib.import_module

    def without(name):
        if name == "onnxruntime":
            raise ModuleNotFoundError(name)
        return find(name)

    monkeypatch.setattr(onnx_file.importlib, "import_module", without)
    with pytest.raises(InputError, match=r"package onnxruntime.*pip install 'torch-mipp\[onnx\]'"):
        mipp.export.export_onnx(Conv(), images(), tmp_path / "net.onnx")
