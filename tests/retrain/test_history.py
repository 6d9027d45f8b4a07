"""Checkpoints: a run in parts is the run as a whole, and files that do not fit are refused."""

import json
import math
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from torch import nn

from mipp.errors import FileError, TrainingError
from mipp.retrain import EpochRecord, Evaluation, History, Recipe, numerics, train

RECIPE = Recipe(epochs=4, peak_lr=0.05, momentum=0.9, label_smoothing=0.1)
AUTO = replace(RECIPE, precision="auto", channels_last="auto")


class InterruptedRunError(Exception):
    pass


class Fragile:
    """Batches that break in the middle of one epoch."""

    def __init__(self, batches, epoch):
        self.batches, self.broken_epoch = batches, epoch

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return self.epoch(0)

    def epoch(self, epoch):
        for step, batch in enumerate(self.batches.epoch(epoch)):
            if epoch == self.broken_epoch and step == 5:
                raise InterruptedRunError
            yield batch


def assert_same(model, other):
    for (name, mine), theirs in zip(
        model.state_dict().items(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs), name


@pytest.fixture
def finished(make_model, batches, tmp_path):
    path = tmp_path / "run.safetensors"
    model = make_model()
    history = train(model, batches, RECIPE, checkpoint=path, progress=False)
    return path, model, history


def test_each_epoch_is_handed_on_once_also_over_an_interruption(make_model, batches, tmp_path):
    path, seen = tmp_path / "run.safetensors", []

    def on_epoch(record):
        assert path.exists()
        seen.append(record)

    arguments = {"checkpoint": path, "on_epoch": on_epoch, "progress": False}
    model = make_model()
    with pytest.raises(InterruptedRunError):
        train(model, Fragile(batches, 2), RECIPE, **arguments)
    assert [record.epoch for record in seen] == [0, 1]
    history = train(make_model(), batches, RECIPE, **arguments)
    assert tuple(seen) == history.epochs


@pytest.mark.parametrize(
    "change", [{}, {"precision": "bfloat16", "channels_last": True}, {"momentum": 0.0}]
)
def test_train_in_parts_is_train_as_a_whole(make_model, batches, tmp_path, change):
    recipe = replace(RECIPE, **change)
    whole = make_model()
    expected = train(whole, batches, recipe, evaluate_on=batches, progress=False, seed=3)
    path = tmp_path / "deep" / "run.safetensors"
    settings = {"evaluate_on": batches, "checkpoint": path, "progress": False, "seed": 3}
    for broken_epoch in (1, 3):
        with pytest.raises(InterruptedRunError):
            train(make_model(), Fragile(batches, broken_epoch), recipe, **settings)
    parts = make_model(9)  # weights come from the file
    history = train(parts, batches, recipe, **settings)
    assert_same(parts, whole)
    assert history == expected
    assert [record.epoch for record in history.epochs] == [0, 1, 2, 3]
    assert [file.name for file in path.parent.iterdir()] == ["run.safetensors"]


def resave(path, **changes):
    """The checkpoint with other fields in its recipe, and without what it says it computed in."""
    tensors, metadata = read(path)
    history = json.loads(metadata["history"])
    del history["numerics"]
    metadata["history"] = json.dumps(history)
    metadata["recipe"] = json.dumps(json.loads(metadata["recipe"]) | changes)
    safetensors.torch.save_file(tensors, path, metadata)


def read(path):
    with safetensors.safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.mark.parametrize("saved", [("bfloat16", True), ("float32", False), ("bfloat16", False)])
def test_a_checkpoint_of_a_set_precision_goes_on_with_auto(make_model, finished, saved):
    path = finished[0]
    resave(path, precision=saved[0], channels_last=saved[1])
    done = Fragile([None], None)
    history = train(make_model(), done, AUTO, checkpoint=path, progress=False)
    assert len(history.epochs) == 4
    explicit = replace(RECIPE, precision=saved[0], channels_last=saved[1])
    train(make_model(), done, explicit, checkpoint=path, progress=False)
    other = {"bfloat16": "float32", "float32": "bfloat16"}[saved[0]]
    with pytest.raises(TrainingError, match=rf"precision={other} \(was {saved[0]}\)"):
        train(
            make_model(), done, replace(explicit, precision=other), checkpoint=path,
            progress=False,
        )  # fmt: skip


def test_a_checkpoint_of_auto_goes_on_with_what_it_computed_in(make_model, batches, tmp_path):
    path = tmp_path / "run.safetensors"
    mine = train(make_model(), batches, AUTO, checkpoint=path, progress=False).numerics
    again = replace(RECIPE, precision=mine.precision, channels_last=mine.channels_last)
    done = Fragile([None], None)
    assert train(make_model(), done, again, checkpoint=path, progress=False).numerics == replace(
        mine, why=""
    )
    with pytest.raises(TrainingError, match=r"channels_last=\w+ \(was auto\)"):
        train(
            make_model(), done, replace(again, channels_last=not mine.channels_last),
            checkpoint=path, progress=False,
        )  # fmt: skip


def test_another_precision_after_the_checkpoint_is_reported(
    make_model, batches, tmp_path, caplog, monkeypatch
):
    path = tmp_path / "run.safetensors"
    mine = train(make_model(), batches, AUTO, checkpoint=path, progress=False).numerics
    other = {"amx_bf16": mine.precision == "float32"}
    monkeypatch.setattr(numerics, "capabilities", lambda: other)
    train(make_model(), Fragile([None], None), AUTO, checkpoint=path, progress=False)
    assert "the epochs of the checkpoint were computed in" in caplog.text


def test_a_finished_run_is_not_trained_again(make_model, finished):
    path, model, history = finished
    again = make_model(5)
    batches = Fragile([None], None)  # would fail if it was iterated
    assert train(again, batches, RECIPE, checkpoint=path, progress=False) == history
    assert_same(again, model)


def test_a_run_that_stopped_early_is_not_trained_again(make_model, batches, tmp_path):
    recipe = replace(RECIPE, epochs=40, patience=1, peak_lr=1.0, schedule="constant")
    settings = {"evaluate_on": batches, "checkpoint": tmp_path / "run", "progress": False}
    first = train(make_model(), batches, recipe, **settings)
    assert first.stopped_early
    assert train(make_model(), batches, recipe, **settings) == first


def test_an_evaluation_that_is_not_finite_survives_in_the_file(make_model, batches, tmp_path):
    x, y = next(iter(batches))
    settings = {"evaluate_on": [(x * math.nan, y)], "checkpoint": tmp_path / "run"}
    first = train(make_model(), batches, RECIPE, progress=False, **settings)
    again = train(make_model(), batches, RECIPE, progress=False, **settings)
    assert math.isnan(first.last.evaluation.loss)
    assert math.isnan(again.last.evaluation.loss)
    assert again.last.train == first.last.train


def test_file_is_safetensors_with_json(finished):
    path, model, history = finished
    with safetensors.safe_open(path, framework="pt") as file:
        metadata, names = file.metadata(), set(file.keys())
    assert names >= {f"model/{name}" for name in model.state_dict()}
    assert "momentum/0.weight" in names
    assert "momentum/6.bias" not in names  # frozen
    assert json.loads(metadata["recipe"])["peak_lr"] == RECIPE.peak_lr
    assert len(json.loads(metadata["history"])["epochs"]) == len(history.epochs)


@pytest.mark.parametrize(
    ("change", "seed", "text"),
    [
        ({"peak_lr": 0.01}, 0, r"another run; given peak_lr=0\.01 \(was 0\.05\)"),
        ({}, 7, r"another run; given seed=7 \(was 0\)"),
    ],
)
def test_checkpoint_of_another_run_is_refused(finished, make_model, batches, change, seed, text):
    model, untouched = make_model(2), make_model(2)
    with pytest.raises(TrainingError, match=text):
        train(
            model,
            batches,
            replace(RECIPE, **change),
            checkpoint=finished[0],
            seed=seed,
            progress=False,
        )
    assert_same(model, untouched)


def test_checkpoint_of_another_model_is_refused(finished, batches):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))
    text = r"does not fit the model: 0\.bias has shape \(8,\) in the file and \(4,\) in the model"
    with pytest.raises(TrainingError, match=text):
        train(model, batches, RECIPE, checkpoint=finished[0], progress=False)


@pytest.mark.parametrize("content", [b"", b"no safetensors", None])
def test_damaged_checkpoint_is_refused(finished, make_model, batches, content):
    path = finished[0]
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(FileError, match=r"cannot be read .* Remove it to start anew"):
        train(make_model(), batches, RECIPE, checkpoint=path, progress=False)


def test_other_safetensors_files_are_refused(make_model, batches, tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(FileError, match="not a training checkpoint: its format is None"):
        train(make_model(), batches, RECIPE, checkpoint=path, progress=False)


def test_tampered_metadata_is_refused(finished, make_model, batches):
    path = finished[0]
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    recipe = json.loads(metadata["recipe"])
    for spoilt in ("{", json.dumps({**recipe, "epochs": "many"})):
        safetensors.torch.save_file(tensors, path, {**metadata, "recipe": spoilt})
        with pytest.raises(FileError, match="metadata that cannot be read"):
            train(make_model(), batches, RECIPE, checkpoint=path, progress=False)


def test_failed_write_keeps_the_old_file(finished, make_model, batches, monkeypatch):
    path = finished[0]
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    path.with_name("new").unlink(missing_ok=True)
    with pytest.raises(OSError, match="No space"):
        train(make_model(), batches, RECIPE, checkpoint=path.with_name("new"), progress=False)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def history(losses):
    records = [
        EpochRecord(epoch, Evaluation(0.0, 0.0, 1), Evaluation(loss, 0.5, 1), 0.1, 1.0)
        for epoch, loss in enumerate(losses)
    ]
    return History(tuple(records))


@pytest.mark.parametrize(
    ("losses", "patience", "stop"),
    [
        ([3.0, 2.0, 1.0], 1, False),
        ([1.0, 2.0], 1, True),
        ([1.0, 2.0], 2, False),
        ([1.0, 2.0, 0.5, 0.7, 0.6], 2, True),
        ([1.0, 1.0], 1, True),
        ([1.0, 2.0, 3.0], None, False),
    ],
)
def test_patience_counts_epochs_since_the_lowest_loss(losses, patience, stop):
    assert history(losses).out_of_patience(patience) is stop
