"""Zeros in files and through training."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import mipp
from mipp import errors
from mipp.retrain import Recipe, hold_masks, hold_zeros, train
from mipp.surgery.weight_files import pack, unpack
from tests.weights.nets import Mixed, images, mlp, vectors

RECIPE = Recipe(epochs=2, peak_lr=0.1, batch_size=64, weight_decay=5e-4)


def pruned(share=10, d=64):
    torch.manual_seed(0)
    model = mlp(d=d, hidden=64)
    plan = mipp.plan(model, vectors(d=d), f"params={share}%", granularity="weight", noise=0.1)
    return model, plan, plan.apply()


def labelled(d=64):
    x = vectors(d=d)[0]
    y = (x[:, 0] > 0.5).long() + 2 * (x[:, 1] > 0.5).long()
    return list(zip(x.split(64), y.split(64), strict=True))


def test_training_leaves_weights_and_momenta_exactly_zero_where_the_plan_has_removed():
    _, plan, model = pruned(40)
    before = {name: model.get_parameter(name).detach().clone() for name in plan.masks}
    seen = []
    hold = plan.hold(model)

    def step(optimizer):
        hold(optimizer)
        for name, mask in plan.masks.items():
            state = optimizer.state[model.get_parameter(name)]
            seen.append(bool((state["momentum_buffer"][~mask] == 0).all()))

    train(model, labelled(), RECIPE, step=step, progress=False)
    assert len(seen) == 2 * 2 * 8
    assert all(seen)
    for name, mask in plan.masks.items():
        parameter = model.get_parameter(name)
        assert torch.equal(
            parameter[~mask].view(torch.int32), torch.zeros(int((~mask).sum())).int()
        )
        assert (parameter != before[name])[mask].all()


def test_without_the_step_the_zeros_are_lost():
    _, plan, model = pruned(40)
    train(model, labelled(), RECIPE, progress=False)
    assert (model.get_parameter("0.weight")[~plan.masks["0.weight"]] != 0).any()


def test_a_loaded_models_zeros_are_held_as_they_are(tmp_path):
    full, plan, model = pruned(40)
    mipp.save(model, tmp_path / "small.safetensors")
    loaded = mipp.load(full, tmp_path / "small.safetensors")
    train(loaded, labelled(), RECIPE, step=hold_zeros(loaded), progress=False)
    for name, mask in plan.masks.items():
        assert torch.equal(loaded.get_parameter(name) != 0, mask)


def test_masks_that_do_not_fit_are_an_error():
    with pytest.raises(errors.InputError, match=r"'0.weight', and the model has one of shape"):
        hold_masks(mlp(), {"0.weight": torch.ones(3, 3, dtype=torch.bool)})
    with pytest.raises(errors.InputError, match=r"'9.weight', and the model has no such parameter"):
        hold_masks(mlp(), {"9.weight": torch.ones(3, 3, dtype=torch.bool)})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_packing_is_bit_for_bit(dtype):
    values = torch.randn(13, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    values[values.abs() < 1] = 0
    values[0, 0], values[1, 1] = -0.0, float("nan")
    others = {"dense": torch.randn(4, 4), "counts": torch.zeros(9, 9, dtype=torch.int64)}
    stored, shapes = pack({"w": values} | others)
    assert shapes == {"w": (13, 7)}
    assert stored["w"].numel() < 91
    found = unpack(stored, shapes)
    assert found.keys() == {"w", "dense", "counts"}
    integers = torch.int16 if dtype.itemsize == 2 else (
        torch.int32 if dtype == torch.float32 else torch.int64)  # fmt: skip
    assert torch.equal(found["w"].view(integers), values.view(integers))


def test_a_file_is_as_small_as_its_weights_and_a_model_from_it_is_an_ordinary_one(tmp_path):
    full, plan, model = pruned(10)
    mipp.save(full, tmp_path / "full.safetensors")
    mipp.save(model, tmp_path / "small.safetensors")
    whole = sum(t.nbytes for t in full.state_dict().values())
    left = 4 * plan.after.params + plan.before.params // 8
    assert (tmp_path / "full.safetensors").stat().st_size > whole
    assert (tmp_path / "small.safetensors").stat().st_size < left + 3000
    loaded = mipp.load(mlp(seed=5, d=64, hidden=64), tmp_path / "small.safetensors")
    assert type(loaded) is nn.Sequential
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_units_first_and_then_weights_go_through_files(tmp_path):
    full, batches = Mixed().eval(), images(256)
    small = mipp.prune(full, batches, "params=80%")
    mipp.save(small, tmp_path / "units.safetensors")
    read = mipp.load(Mixed(), tmp_path / "units.safetensors")
    plan = mipp.plan(read, batches, "params=50%", granularity="weight")
    both = plan.apply()
    mipp.save(both, tmp_path / "both.safetensors")
    again = mipp.load(Mixed(), tmp_path / "both.safetensors").eval()
    assert again.stem.out_channels < 8 or again.head.in_features < 64
    x = batches[0]
    assert torch.equal(again(x), both.eval()(x))
    kept = sum(int((again.get_parameter(n) != 0).sum()) for n in plan.masks)
    assert kept == plan.after.weights
    assert plan.before.params == sum(p.numel() for p in small.parameters())
    assert mipp.original_indices(again) == mipp.original_indices(small)


def rewritten(path, change):
    """The file with changed tensors, its record as it was."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    change(tensors, metadata)
    save_file(tensors, path, metadata)


def test_a_damaged_file_is_refused(tmp_path):
    full, _, model = pruned(10)
    path = tmp_path / "small.safetensors"

    def bit(tensors, _):
        tensors["0.weight::nonzero"][0] ^= 1

    def cut(tensors, _):
        tensors["0.weight"] = tensors["0.weight"][:-1]

    def lost(tensors, _):
        del tensors["0.weight::nonzero"]

    def older(_, metadata):
        record = json.loads(metadata["mipp"]) | {"format": 4}
        metadata["mipp"] = json.dumps(record)

    for change, text in (
        (bit, "was changed after it was saved"),
        (cut, "was changed after it was saved"),
        (lost, "was changed after it was saved"),
        (older, "has format 4; this version of mipp reads formats 1"),
    ):
        mipp.save(model, path)
        rewritten(path, change)
        with pytest.raises(errors.FileError, match=text):
            mipp.load(full, path)
    mipp.save(model, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(errors.FileError, match="cut short"):
        mipp.load(full, path)


def test_parts_that_do_not_belong_together_are_an_error():
    stored, shapes = pack({"w": torch.eye(16)})
    with pytest.raises(errors.InputError, match="'w' has 15 values for 16 places"):
        unpack(stored | {"w": stored["w"][1:]}, shapes)
    with pytest.raises(errors.InputError, match="the values or the bits of 'w' are missing"):
        unpack({"w": stored["w"]}, shapes)
