"""A cache of parents of the tests' own, and suites that are done in seconds."""

import os
import subprocess
import sys

import pytest

from tests.report.conftest import light  # noqa: F401 - a fixture


@pytest.fixture(scope="session")
def parents_cache(tmp_path_factory):
    """A folder for trained nets, of this session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(parents_cache, monkeypatch):
    monkeypatch.setenv("MIPP_CACHE", str(parents_cache))


@pytest.fixture
def spawn(parents_cache):
    """Starts ``python -m MODULE ARGUMENTS`` in a process, which is ended at the end of the test."""
    started = []

    def run(*arguments):
        env = os.environ | {"OMP_NUM_THREADS": "1", "MIPP_CACHE": str(parents_cache)}
        command = [sys.executable, "-m", *map(str, arguments)]
        process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
