"""Wheels on PyPI that hold weights and data: fetched by pip, never installed or executed."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pooch

from lab import parents

WHEELS = {
    "antiberty": ("0.1.3", "30d910992b190013871bac49cdc032e01a19339f7d2b958ab99b0eb44638352a"),
    "abstar": ("0.8.0", "c3c25dd4c0ebcd8173fdd4737539957dfd2f5ca25a0a71cc7a1f2643cdb898f4"),
    "iglm": ("0.1.0", "6bb7b65c531583b10d3723dbfbc06e95b2cb30e3cc8cbf2fbc7eb22945e1c2be"),
}
"""Version and sha256 of each wheel."""


def wheel(name: str) -> Path:
    """The wheel of that package in the cache, fetched by pip if need be, with the right hash."""
    version, sha256 = WHEELS[name]
    folder = parents.cache().parent / "wheels"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            wanted = Path(scratch) / "wanted.txt"
            wanted.write_text(f"{name}=={version} --hash=sha256:{sha256}\n")
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
            command = [*pip, "--only-binary", ":all:", "-q", "-d", str(folder), "-r", str(wanted)]
            subprocess.run(command, check=True)  # noqa: S603 - pip, with nothing from outside
    if pooch.file_hash(str(path)) != sha256:
        raise SystemExit(f"{path} is not the file that was published. Delete it and try again.")
    return path
