"""``mipp demo``, shortened; `make demo` runs the whole of it."""

from dataclasses import replace

import pytest

import mipp as library
from mipp.cli import model_names


@pytest.fixture
def short(monkeypatch):
    """Training that takes a second."""

    original = model_names.find_network

    def find(name):
        found = original(name)
        return replace(found, recipe=replace(found.recipe, epochs=1))

    monkeypatch.setattr("mipp.cli.model_names.find_network", find)
    monkeypatch.setattr("mipp.cli.demo.RETRAINING", 1)


def test_it_checks_what_it_did_in_a_new_process(mipp, short, tmp_path):
    folder = tmp_path / "made" / "by-demo"
    done = mipp("demo", "--out", folder, "--json")
    found = done.json
    assert {path.name for path in folder.iterdir()} == {
        "full.safetensors", "small.safetensors", "plan.json",
    }  # fmt: skip
    checks = found["checks"]
    assert len(checks) == 6
    assert all(holds for name, holds in checks.items() if "read back" in name or "MACs" in name)
    assert done.code == (0 if all(checks.values()) else 1)
    assert found["macs"]["after"] <= 0.25 * found["macs"]["before"]
    library.load(library.models.build("digits_cnn"), folder / "small.safetensors")


def test_a_check_that_fails_is_seen(mipp, short, monkeypatch, tmp_path):
    reloaded = {"accuracy": 0.0, "macs": 1.0, "params": 1}
    monkeypatch.setattr("mipp.cli.demo._evaluated", lambda path, seed: reloaded)
    done = mipp("demo", "--out", tmp_path)
    assert done.code == 1
    assert "FAILED  read back, it has the same accuracy" in done.out


def test_a_folder_that_cannot_be_made(mipp, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = mipp("demo", "--out", tmp_path / "file" / "folder")
    assert done.code == 1
    assert "cannot be made" in done.err
