"""Where data is looked for, and fetching it from a server on this machine."""

import hashlib
import io
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mipp.data.downloads import Download, data_root, ensure
from mipp.errors import FileError

FOLDER = "cifar-10-batches-bin"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def served(tmp_path):
    """A folder and the address at which its files can be fetched."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def archive(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
    return hashlib.md5(path.read_bytes()).hexdigest()


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_root_goes_before_environment_before_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MIPP_DATA", str(tmp_path / "environment"))
    assert data_root(tmp_path / "given") == tmp_path / "given"
    assert data_root(None) == tmp_path / "environment"
    monkeypatch.delenv("MIPP_DATA")
    assert data_root(None).parts[-2:] == ("mipp", "data")


def test_archive_is_fetched_checked_and_only_expected_members_unpacked(served, tmp_path):
    folder, url = served
    content = {
        f"{FOLDER}/a.bin": b"aa",
        f"{FOLDER}/b.bin": b"bbb",
        f"{FOLDER}/readme.html": b"no",
        "../../outside": b"evil",
    }
    md5 = archive(folder / "x.tar.gz", content)
    target = tmp_path / "data" / FOLDER
    ensure(target, [Download(f"{url}/x.tar.gz", md5, ("a.bin", "b.bin"))])
    assert files_in(tmp_path / "data") == [f"{FOLDER}/a.bin", f"{FOLDER}/b.bin"]
    assert (target / "b.bin").read_bytes() == b"bbb"
    assert [path.name for path in target.iterdir() if path.is_dir()] == []
    assert not (tmp_path / "outside").exists()


def test_plain_file_is_fetched(served, tmp_path):
    folder, url = served
    (folder / "labels.gz").write_bytes(b"labels")
    ensure(tmp_path / "raw", [Download(f"{url}/labels.gz", hashlib.md5(b"labels").hexdigest())])
    assert (tmp_path / "raw" / "labels.gz").read_bytes() == b"labels"


def test_files_that_are_there_are_not_fetched(tmp_path):
    (tmp_path / "labels.gz").write_bytes(b"mine")
    ensure(tmp_path, [Download("http://127.0.0.1:9/labels.gz", "0" * 32)])
    assert (tmp_path / "labels.gz").read_bytes() == b"mine"


def test_wrong_checksum_leaves_nothing_behind(served, tmp_path):
    folder, url = served
    (folder / "labels.gz").write_bytes(b"tampered")
    with pytest.raises(FileError, match=r"Fetching .*labels\.gz failed: .*hash"):
        ensure(tmp_path / "raw", [Download(f"{url}/labels.gz", "0" * 32)])
    assert list((tmp_path / "raw").iterdir()) == []


@pytest.mark.parametrize("content", [{}, {f"{FOLDER}/a.bin": "/etc/passwd"}])
def test_archive_without_the_member_or_with_a_link_is_refused(served, tmp_path, content):
    folder, url = served
    md5 = archive(folder / "x.tar.gz", content)
    with pytest.raises(FileError, match=r"a\.bin"):
        ensure(tmp_path / FOLDER, [Download(f"{url}/x.tar.gz", md5, ("a.bin",))])
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_offline_error_names_folder_files_and_what_to_do(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("pooch.retrieve", offline)
    (tmp_path / "a.bin").write_bytes(b"a")
    downloads = [Download("http://host/x.tar.gz", "0" * 32, ("a.bin", "b.bin"))]
    with pytest.raises(FileError) as caught:
        ensure(tmp_path, downloads)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path} lacks b.bin; expected there: a.bin, b.bin.")
    assert "http://host/x.tar.gz failed: no route to host" in text
    assert "root= or MIPP_DATA" in text
    assert [path.name for path in Path(tmp_path).iterdir()] == ["a.bin"]
