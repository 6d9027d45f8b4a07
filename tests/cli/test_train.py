"""``mipp train``: weights, checkpoints, and what fails before any training."""

import pytest
from safetensors import safe_open

import mipp as library


def epochs(count):
    return ("--epochs", str(count), "--batch-size", "64", "--json")


def test_it_writes_weights_that_the_library_loads(mipp, small_cnn, tmp_path):
    out = tmp_path / "net.safetensors"
    done = mipp("train", *small_cnn, "--out", out, "--seed", "1", "--lr", "0.02", *epochs(1))
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == 1
    assert done.json["epochs"] == 1
    assert done.json["seed"] == 1
    model = library.load(library.models.build("digits_cnn", width=0.5), out)
    test = library.data.Batches(library.data.load("digits", "test"), 256)
    assert library.retrain.evaluate(model, test).accuracy == done.json["accuracy"]
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


def test_people_read_the_accuracy_on_stdout(mipp, small_cnn, tmp_path):
    done = mipp("train", *small_cnn, "--out", tmp_path / "net.safetensors", "--epochs", "1")
    assert done.code == 0, done.err
    assert "accuracy" in done.out
    assert "net.safetensors" in done.out


def test_a_file_or_pipe_has_a_line_an_epoch_and_how_it_was_computed(mipp, small_cnn, tmp_path):
    work = ("train", *small_cnn, "--out", tmp_path / "net.safetensors", "--force", "--epochs", "2")
    for stream, more in (("out", ()), ("err", ("--json",))):
        done = mipp(*work, *more)
        lines = getattr(done, stream).splitlines()
        assert lines[0].startswith("training computes in float32, ")
        assert [line.partition(":")[0] for line in lines[1:3]] == ["epoch 1 of 2", "epoch 2 of 2"]
        assert lines[1].endswith(" left")
    assert done.json["precision"] == "float32"
    assert len(done.out.splitlines()) == 1


def test_a_checkpoint_goes_on_to_the_same_weights(mipp, small_cnn, tmp_path):
    whole, parts, saved = (tmp_path / f"{name}.safetensors" for name in ("a", "b", "checkpoint"))
    mipp("train", *small_cnn, "--out", whole, *epochs(2))
    first = mipp("train", *small_cnn, "--out", parts, "--resume", saved, *epochs(2))
    assert saved.is_file()
    refused = mipp("train", *small_cnn, "--out", parts, "--resume", saved, *epochs(2))
    assert refused.code == 1
    assert "or --force to replace it" in refused.err
    work = ("train", *small_cnn, "--out", parts, "--resume", saved, "--force")
    again = mipp(*work, *epochs(2))
    assert first.json["accuracy"] == again.json["accuracy"]
    assert whole.read_bytes() == parts.read_bytes()
    other = mipp(*work, *epochs(3))
    assert other.code == 1
    assert "another run" in other.err


def test_pruned_weights_are_trained_on_and_stay_pruned(mipp, small_cnn, weights, tmp_path):
    small, tuned = tmp_path / "small.safetensors", tmp_path / "tuned.safetensors"
    mipp("prune", *small_cnn, "-w", weights, "-b", "macs=50%", "--samples", "128", "-o", small)
    done = mipp("train", *small_cnn, "-w", small, "--lr", "0.01", "-o", tuned, *epochs(1))
    assert done.code == 0, done.err
    shapes = []
    for path in (small, tuned):
        with safe_open(path, framework="pt") as file:
            shapes.append({name: file.get_slice(name).get_shape() for name in file.keys()})  # noqa: SIM118
    assert shapes[0] == shapes[1]
    assert mipp("eval", *small_cnn, "-w", tuned, "--json").json["accuracy"] == done.json["accuracy"]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--model", "lenet6"), 2, "Did you mean 'lenet5'?"),
        (("--model", "digits_cnn", "--data", "digit"), 2, "expected one of"),
        (("--model", "digits_cnn", "--out", "x.pt"), 2, "ends in .safetensors"),
        (("--model", "digits_cnn", "--lr", "-1"), 2, "above 0"),
        (("--model", "digits_cnn", "--out", "no/x.safetensors"), 1, "there is no folder"),
        (("--model", "digits_cnn", "--out", "/proc/x.safetensors"), 1, "nothing can be written"),
        (("--model", "digits_cnn", "--out", "folder.safetensors"), 1, "is a folder"),
        (("--model", "lenet5"), 1, "--data mnist"),
        (("--model", "digits_cnn", "--classes", "5"), 1, "does not fit"),
        (("--model", "digits_cnn", "--width", "-1"), 1, "width"),
        (("--model", "digits_cnn", "--device", "abacus"), 1, "--device"),
    ],
)
def test_what_fails_before_any_training(mipp, monkeypatch, tmp_path, arguments, code, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.safetensors").mkdir()
    monkeypatch.setattr(library.retrain, "train", lambda *a, **k: pytest.fail("it trained"))
    done = mipp("train", "--out", "x.safetensors", *arguments)
    assert done.code == code
    assert text in " ".join(done.err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["folder.safetensors"]


def test_a_file_that_is_there_is_replaced_by_force_alone(mipp, small_cnn, tmp_path):
    out = tmp_path / "net.safetensors"
    out.write_bytes(b"of another run")
    refused = mipp("train", *small_cnn, "--out", out, *epochs(1))
    assert refused.code == 1
    assert "there is such a file already. Give another name, or --force" in refused.err
    assert out.read_bytes() == b"of another run"
    assert mipp("train", *small_cnn, "--out", out, *epochs(1), "--force").code == 0
    assert out.read_bytes() != b"of another run"
