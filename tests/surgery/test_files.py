"""One file, no pickle: what is saved is what is loaded, and anything else is an error."""

import copy
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mipp.errors import FileError, InputError
from mipp.records import AxisKey
from mipp.surgery import files
from mipp.surgery.file_record import digest_of
from mipp.surgery.files import load, read_record, save
from mipp.surgery.keeps import kept_indices
from mipp.surgery.kept_record import recorded_axes
from mipp.surgery.slice import slice_model
from mipp.surgery.tensors import named_tensors
from mipp.surgery.weight_files import read_safetensors

from .hand_built import CASES


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]()


def small_of(case):
    return slice_model(case.model, kept_indices(case.graph, case.keep), case.graph.aliases)


def fresh(case):
    """The full-size model again, with other weights."""
    other = copy.deepcopy(case.model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    return other


def same_tensors(one, other):
    mine, theirs = named_tensors(one), named_tensors(other)
    return mine.keys() == theirs.keys() and all(
        torch.equal(mine[name], theirs[name]) and mine[name].dtype == theirs[name].dtype
        for name in mine
    )


def test_round_trip_through_a_full_size_model(case, tmp_path):
    small, path = small_of(case), tmp_path / "small.safetensors"
    save(small, path)
    full = fresh(case)
    before = {name: tensor.detach().clone() for name, tensor in named_tensors(full).items()}
    loaded = load(full, path)
    assert same_tensors(loaded, small)
    assert torch.equal(loaded(*case.inputs), small(*case.inputs))
    assert recorded_axes(loaded) == recorded_axes(small)
    assert all(torch.equal(before[name], t) for name, t in named_tensors(full).items())
    assert recorded_axes(full) == ()
    assert [str(module) for module in loaded.modules()] == [str(m) for m in small.modules()]
    assert [p.name for p in tmp_path.iterdir()] == ["small.safetensors"]


def test_round_trip_through_a_model_of_the_small_widths(case, tmp_path):
    small, path = small_of(case), tmp_path / "small.safetensors"
    save(small, path)
    other = fresh(case)
    other = slice_model(other, kept_indices(case.graph, case.keep), case.graph.aliases)
    assert same_tensors(load(other, path), small)


def test_what_was_kept_is_known_also_from_a_model_built_small(tmp_path):
    case, path = CASES["tied"](), tmp_path / "small.safetensors"
    small = small_of(case)
    save(small, path)
    built = type(small)()
    built.tokens, built.classify = nn.Embedding(11, 3), nn.Linear(3, 11, bias=False)
    built.classify.weight = built.tokens.weight
    save(load(built, path), path)
    assert same_tensors(load(fresh(case), path), small)


def test_factory_and_class(tmp_path):
    path = tmp_path / "small.safetensors"
    small = small_of(CASES["tied"]())
    save(small, path)
    loaded = load(type(small), path)
    assert same_tensors(loaded, small)
    assert loaded.classify.weight is loaded.tokens.weight
    assert loaded.training


def test_model_that_was_never_pruned(tmp_path):
    case, path = CASES["lenet"](), tmp_path / "full.safetensors"
    save(case.model, path)
    assert read_record(path).axes == ()
    assert same_tensors(load(fresh(case), path), case.model)


def test_pruned_twice_loads_into_the_full_size_model(tmp_path):
    case, path = CASES["tied"](), tmp_path / "small.safetensors"
    once = slice_model(case.model, {AxisKey("tokens.weight", 1): np.array([0, 2, 3, 5])})
    twice = slice_model(once, {AxisKey("tokens.weight", 1): np.array([1, 3])})
    save(twice, path)
    assert same_tensors(load(fresh(case), path), twice)
    assert read_record(path).axes[0].kept == (2, 5)


def test_saved_again_after_loading(case, tmp_path):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    save(small_of(case), first)
    save(load(fresh(case), first), second)
    assert first.read_bytes() == second.read_bytes()


def test_part_of_a_model_that_was_pruned(tmp_path):
    part, path = CASES["tied"](), tmp_path / "whole.safetensors"
    whole = nn.Sequential(small_of(part), nn.Linear(11, 4))
    save(whole, path)
    assert same_tensors(load(nn.Sequential(fresh(part), nn.Linear(11, 4)), path), whole)


def test_wrappers_are_looked_through(tmp_path):
    case, path = CASES["lenet"](), tmp_path / "small.safetensors"
    small = small_of(case)
    save(nn.DataParallel(small), path)
    assert same_tensors(load(nn.DataParallel(fresh(case)), path), small)


def test_bfloat16_needs_a_bfloat16_model(tmp_path):
    case, path = CASES["lenet"](), tmp_path / "small.safetensors"
    small = small_of(case).to(torch.bfloat16)
    save(small, path)
    with pytest.raises(FileError, match=r"is torch.bfloat16 in the file and torch.float32 in the"):
        load(fresh(case), path)
    assert same_tensors(load(fresh(case).to(torch.bfloat16), path), small)


def test_modes_and_freezing_are_those_of_the_model_given(tmp_path):
    case, path = CASES["lenet"](), tmp_path / "small.safetensors"
    save(small_of(case), path)
    full = fresh(case).train()
    full.conv1.eval().requires_grad_(False)
    loaded = load(full, path)
    assert (loaded.training, loaded.conv1.training) == (True, False)
    assert not loaded.conv1.weight.requires_grad
    assert loaded.fc1.weight.requires_grad


def test_views_of_one_storage_are_saved_each(tmp_path):
    def make():
        model = nn.Linear(2, 2)
        both = torch.arange(4.0)
        model.register_buffer("left", both[:3])
        model.register_buffer("right", both[1:])
        return model

    model, path = make(), tmp_path / "model.safetensors"
    save(model, path)
    assert same_tensors(load(make, path), model)


def test_extra_and_version(tmp_path):
    path = tmp_path / "small.safetensors"
    save(small_of(CASES["lenet"]()), path, extra={"accuracy": 0.5, "classes": ["a", "b"]})
    record = read_record(path)
    assert record.extra == {"accuracy": 0.5, "classes": ["a", "b"]}
    assert record.mipp_version
    with pytest.raises(InputError, match="extra must be what JSON can hold"):
        save(small_of(CASES["lenet"]()), path, extra={"model": nn.Linear(1, 1)})


def test_others_may_read_the_file(tmp_path):
    path, usual = tmp_path / "small.safetensors", tmp_path / "usual"
    usual.touch()
    save(CASES["lenet"]().model, path)
    assert path.stat().st_mode == usual.stat().st_mode


def test_nothing_is_pickled(tmp_path):
    path = tmp_path / "small.safetensors"
    save(small_of(CASES["lenet"]()), path)
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    header = json.loads(path.read_bytes()[8 : 8 + length])
    assert set(header["__metadata__"]) == {"mipp"}


# ------------------------------------------------------------------------------ wrong models


def damaged_model(change):
    model = CASES["lenet"]().model
    change(model)
    return model


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: setattr(m, "fc2", nn.Linear(10, 4)),
         r"expected 'fc2.bias' of shape \(3,\), got shape \(4,\)"),
        (lambda m: m.add_module("more", nn.Linear(2, 2)),
         r"expected no 'more.bias', got shape \(2,\)"),
        (lambda m: setattr(m, "conv2", nn.Conv2d(6, 8, 3, bias=False)),
         r"expected 'conv2.bias' of shape \(8,\), got no such tensor"),
    ],
)  # fmt: skip
def test_another_model(change, text, tmp_path):
    path = tmp_path / "small.safetensors"
    save(small_of(CASES["lenet"]()), path)
    with pytest.raises(FileError, match=text):
        load(damaged_model(change), path)


def test_wrong_model_is_left_as_it_was(tmp_path):
    path = tmp_path / "small.safetensors"
    save(small_of(CASES["lenet"]()), path)
    wrong = CASES["mixed"]().model
    before = copy.deepcopy(wrong)
    with pytest.raises(FileError, match="was saved from another model"):
        load(wrong, path)
    assert same_tensors(wrong, before)
    assert vars(wrong).keys() == vars(before).keys()


class TwoHeads(nn.Module):
    def __init__(self, tied):
        super().__init__()
        self.one, self.other = nn.Linear(3, 2), nn.Linear(3, 2)
        if tied:
            self.other.weight = self.one.weight


@pytest.mark.parametrize("tied", [True, False])
def test_weights_tied_otherwise(tied, tmp_path):
    path = tmp_path / "model.safetensors"
    save(TwoHeads(tied), path)
    with pytest.raises(FileError, match="Tie the same weights"):
        load(TwoHeads(not tied), path)


def test_small_model_whose_buffers_outside_the_file_were_cut_otherwise(tmp_path):
    case, path = CASES["bare"](), tmp_path / "small.safetensors"
    save(small_of(case), path)
    other = slice_model(case.model, kept_indices(case.graph, {0: ~case.keep[0]}))
    with pytest.raises(FileError, match="was saved from another model"):
        load(other, path)


def test_model_changed_after_slicing(tmp_path):
    small = small_of(CASES["lenet"]())
    small.fc2 = nn.Linear(7, 3)
    with pytest.raises(InputError, match=r"'fc2.weight', of shape \(3, 7\), was sliced to 5"):
        save(small, tmp_path / "small.safetensors")


def test_meta_models(tmp_path):
    path = tmp_path / "small.safetensors"
    case = CASES["lenet"]()
    save(small_of(case), path)
    with pytest.raises(InputError, match="meta device"):
        load(case.model.to("meta"), path)
    with pytest.raises(InputError, match=r"tensor without values under 'conv1.weight'"):
        save(case.model, path)


class WithExtraState(nn.Linear):
    def get_extra_state(self):
        return {"a": 1}


def test_state_that_is_no_tensor(tmp_path):
    with pytest.raises(InputError, match="holds dict under '_extra_state'"):
        save(WithExtraState(2, 2), tmp_path / "model.safetensors")


# ------------------------------------------------------------------------------ damaged files


@pytest.fixture
def saved(tmp_path):
    case, path = CASES["lenet"](), tmp_path / "small.safetensors"
    save(small_of(case), path)
    return case, path


def expect(saved, text):
    case, path = saved
    with pytest.raises(FileError, match=text):
        load(case.model, path)
    with pytest.raises(FileError):
        read_record(path)


@pytest.mark.parametrize("left", [0, 5, 8, 300, -1, -64])
def test_truncated(saved, left):
    saved[1].write_bytes(saved[1].read_bytes()[:left])
    expect(saved, "not a safetensors file, or is cut short")


def test_every_changed_byte_of_the_weights_is_seen(saved):
    content = saved[1].read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    for position in np.random.default_rng(0).integers(8 + length, len(content), 20):
        changed = bytearray(content)
        changed[position] ^= 1
        saved[1].write_bytes(changed)
        expect(saved, "was changed after it was saved: its digest should be")


def test_every_changed_byte_of_the_header_is_seen(saved):
    content = saved[1].read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    case, path = saved
    small = load(case.model, path)
    unseen = 0
    for position in np.random.default_rng(0).integers(0, 8 + length, 200):
        changed = bytearray(content)
        changed[position] ^= 1
        path.write_bytes(changed)
        try:
            loaded = load(case.model, path)
        except FileError:
            continue
        # a byte that means nothing, such as padding
        unseen += 1
        assert same_tensors(loaded, small)
    assert unseen < 20


def rewritten(path, change):
    """Change the record and give it a digest that fits, as someone with a purpose would."""
    tensors, metadata = read_safetensors(path)
    content = json.loads(metadata["mipp"])
    change(content, tensors)
    content.pop("digest", None)
    text = json.dumps(content | {"digest": digest_of(content, tensors)})
    save_file(tensors, path, {"mipp": text})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c, t: t.pop("fc2.bias"), "is damaged: tensors are missing"),
        (lambda c, t: t.update(more=torch.zeros(2)), "is damaged: tensors are missing"),
        (lambda c, t: t.update({"fc2.bias": t["fc2.bias"].double()}), "float64 in the file"),
        (lambda c, t: c.update(format=4), "has format 4; this version of mipp reads formats 1"),
        (lambda c, t: c.pop("axes"), "is damaged: axes: Field required"),
        (lambda c, t: c["axes"][0].update(kept=[0, 99]), "is damaged: axes.0"),
        (lambda c, t: c["axes"][0].update(size=99), "changed shape"),
        (lambda c, t: c["axes"][0].update(kept=[0, 1, 2, 3]), "was sliced to 4"),
        (lambda c, t: c["aliases"].update(other="fc1.weight"), "is damaged: tensors are missing"),
        (lambda c, t: c["aliases"].update(other="nowhere"), "a shared tensor is missing"),
        (lambda c, t: c.update(mipp_version=1), "is damaged: mipp_version"),
    ],
)
def test_records_that_do_not_fit(saved, change, text):
    rewritten(saved[1], change)
    with pytest.raises(FileError, match=text):
        load(saved[0].model, saved[1])


def test_record_that_is_not_json(saved):
    save_file({"a": torch.zeros(1)}, saved[1], {"mipp": "{"})
    expect(saved, "its record is not JSON")
    save_file({"a": torch.zeros(1)}, saved[1], {"mipp": "[]"})
    expect(saved, "has format None")


def test_safetensors_file_of_another_program(saved):
    save_file(saved[0].model.state_dict(), saved[1])
    expect(saved, "was not written by mipp.save")


def test_not_a_safetensors_file(saved):
    saved[1].write_text("hello, this is not a model at all")
    expect(saved, "not a safetensors file")


def test_missing_file(tmp_path):
    case = CASES["lenet"]()
    with pytest.raises(FileError, match=r"nowhere.safetensors cannot be read: No such file"):
        load(case.model, tmp_path / "nowhere.safetensors")
    with pytest.raises(FileError, match="cannot be read"):
        load(case.model, tmp_path)


# ------------------------------------------------------------------------------------- writing


def test_folder_that_cannot_be_written(tmp_path):
    case = CASES["lenet"]()
    (tmp_path / "file").write_text("")
    for folder in ("nowhere", "file"):
        with pytest.raises(FileError, match="cannot be written"):
            save(case.model, tmp_path / folder / "small.safetensors")
    (tmp_path / "taken.safetensors").mkdir()
    with pytest.raises(FileError, match="cannot be written"):
        save(case.model, tmp_path / "taken.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "taken.safetensors"]


@pytest.mark.parametrize("step", ["save_file", "fsync", "replace"])
def test_failed_write_leaves_the_old_file(step, saved, monkeypatch):
    case, path = saved
    before = path.read_bytes()

    def fails(*args):
        if step == "save_file":
            args[1].write_bytes(b"half of")
        raise OSError("No space left on device")

    target = {"save_file": files, "fsync": os, "replace": Path}[step]
    monkeypatch.setattr(target, step, fails)
    with pytest.raises(FileError, match="cannot be written: No space left on device"):
        save(case.model, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_interrupted_write_leaves_no_partial_file(saved, monkeypatch):
    def interrupted(tensors, path, metadata):
        path.write_bytes(b"half of")
        raise KeyboardInterrupt

    before = saved[1].read_bytes()
    monkeypatch.setattr(files, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(saved[0].model, saved[1])
    assert saved[1].read_bytes() == before
    assert list(saved[1].parent.iterdir()) == [saved[1]]


class _Detector(nn.Module):
    """A network inside another, whose widths the outer one decides; one table has two names."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Sequential(nn.Conv2d(8, 12, 3), nn.ReLU()),
        )  # fmt: skip
        self.attend = nn.TransformerEncoderLayer(12, 4, 16, batch_first=True)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        found = self.backbone(x).flatten(2).transpose(1, 2)
        return self.head(self.attend(found).mean(1))


@pytest.mark.parametrize("part", ["backbone", "backbone.3", "backbone.3.0", "attend", "head"])
@pytest.mark.parametrize("reloaded", [False, True])
def test_a_module_inside_a_pruned_model_can_be_saved_alone(tmp_path, part, reloaded):
    import mipp

    full = _Detector().eval()
    x = torch.randn(32, 3, 8, 8)
    small = mipp.prune(
        full, [x], "units=50%", noise=0.1, refit=False, allocation="uniform", residual=True
    )
    if reloaded:
        save(small, tmp_path / "whole.safetensors")
        small = load(_Detector().eval(), tmp_path / "whole.safetensors")
    path = tmp_path / "part.safetensors"
    inner = small.get_submodule(part)
    save(inner, path)
    again = load(_Detector().eval().get_submodule(part), path)
    given = torch.randn(2, 3, 8, 8)
    seen = []
    hook = inner.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    small(given)
    hook.remove()
    assert torch.equal(again(seen[0]), inner(seen[0]))
    assert any(
        inner.state_dict()[n].shape != t.shape
        for n, t in full.get_submodule(part).state_dict().items()
    )


def test_a_module_with_shared_weights_inside_a_pruned_model_can_be_saved_alone(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
            self.other = nn.ModuleList([self.inside[0], self.inside[2]])

    full = Tied()
    kept = {AxisKey("inside.0.weight", 0): np.array([0, 3]), AxisKey("inside.0.bias", 0):
            np.array([0, 3]), AxisKey("inside.2.weight", 1): np.array([0, 3])}  # fmt: skip
    small = slice_model(full, kept)
    for part in ("inside", "other"):
        path = tmp_path / f"{part}.safetensors"
        save(small.get_submodule(part), path)
        again = load(Tied().get_submodule(part), path)
        assert again[0].weight.shape == (2, 6)


@pytest.mark.parametrize("name", ["a.pt", "a.bin", "a", "a.onnx"])
def test_names_that_promise_another_format_are_refused(tmp_path, name):
    with pytest.raises(FileError, match=r"ends in \.safetensors.*Save it as 'a\.safetensors'"):
        save(nn.Linear(2, 2), tmp_path / name)
    assert not list(tmp_path.iterdir())
