"""Where data is looked for, fetching it from a server on this machine, and parsing small files."""

import gzip
import hashlib
import io
import struct
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from mipp.data.published_files import Download, data_root, ensure, read_cifar, read_idx
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


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)


def write_idx(path, array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def write_cifar(path, images, *labels):
    records = [np.stack(labels, 1), images.reshape(len(images), -1)]
    path.write_bytes(np.concatenate(records, 1).astype(np.uint8).tobytes())


def test_idx_round_trip(tmp_path, pixels):
    write_idx(tmp_path / "images.gz", pixels)
    assert np.array_equal(read_idx(tmp_path / "images.gz", (6, 28, 28)), pixels)


def test_idx_of_another_shape_is_refused(tmp_path, pixels):
    write_idx(tmp_path / "images.gz", pixels)
    with pytest.raises(FileError, match=r"images\.gz.*header is not .* shape \(7, 28, 28\)"):
        read_idx(tmp_path / "images.gz", (7, 28, 28))


def test_idx_with_too_little_data_is_refused(tmp_path, pixels):
    header = struct.pack(">HBB3I", 0, 8, 3, 6, 28, 28)
    (tmp_path / "images.gz").write_bytes(gzip.compress(header + pixels.tobytes()[:-5]))
    with pytest.raises(FileError, match=r"has 4699 bytes of data, expected 4704"):
        read_idx(tmp_path / "images.gz", (6, 28, 28))


@pytest.mark.parametrize("damage", [lambda b: b[:-20], lambda b: b[:30] + b"\0" * 9 + b[39:]])
def test_damaged_gzip_is_refused(tmp_path, pixels, damage):
    path = tmp_path / "images.gz"
    write_idx(path, pixels)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(FileError, match=r"images\.gz .* cannot be read as gzip"):
        read_idx(path, (6, 28, 28))


def test_cifar10_record_is_a_label_and_three_planes(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    write_cifar(tmp_path / "batch.bin", images, [3, 1, 0, 9])
    read, labels = read_cifar(tmp_path / "batch.bin", 4, label_bytes=1)
    assert np.array_equal(read, images)
    assert labels.tolist() == [3, 1, 0, 9]


def test_cifar100_uses_the_fine_label(tmp_path):
    images = np.zeros((2, 3, 32, 32), dtype=np.uint8)
    write_cifar(tmp_path / "train.bin", images, [5, 6], [77, 42])
    assert read_cifar(tmp_path / "train.bin", 2, label_bytes=2)[1].tolist() == [77, 42]


def test_truncated_cifar_is_refused(tmp_path):
    (tmp_path / "batch.bin").write_bytes(bytes(3073 * 4 - 1))
    with pytest.raises(FileError, match=r"batch\.bin .* has 12291 bytes, expected 12292.*Remove"):
        read_cifar(tmp_path / "batch.bin", 4, label_bytes=1)


def test_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(FileError, match=r"none\.bin"):
        read_cifar(tmp_path / "none.bin", 1, label_bytes=1)
