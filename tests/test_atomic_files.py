"""Files are written whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from mipp.atomic_files import replacing


def test_a_file_takes_the_place_of_another_with_the_usual_rights(tmp_path):
    path, plain = tmp_path / "file", tmp_path / "plain"
    path.write_text("old")
    plain.touch()
    with replacing(path) as partial:
        assert partial.parent == tmp_path
        partial.write_text("half")
        assert path.read_text() == "old"
        partial.write_text("new")
        partial.chmod(0o600)
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    assert sorted(tmp_path.iterdir()) == [path, plain]


def write_half(path, then):
    with replacing(path) as partial:
        partial.write_text("half")
        then()


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_after_a_failure_all_is_as_it_was(tmp_path, monkeypatch, step, error, there):
    def fails(*_):
        raise error

    path = tmp_path / "file"
    if there:
        path.write_text("old")
    if step != "write":
        monkeypatch.setattr({"fsync": os, "replace": Path}[step], step, fails)
    with pytest.raises(type(error)):
        write_half(path, fails if step == "write" else lambda: None)
    found = [(file.name, file.read_text()) for file in tmp_path.iterdir()]
    assert found == ([("file", "old")] if there else [])


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "nowhere" / "file"):
        pass
    assert not list(tmp_path.iterdir())
