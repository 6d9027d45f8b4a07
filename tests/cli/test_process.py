"""The real command, in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time

ENV = os.environ | {"OMP_NUM_THREADS": "1"}


def test_module_and_json_on_stdout(small_cnn, weights):
    done = subprocess.run(
        [sys.executable, "-m", "mipp", "eval", *small_cnn, "--weights", weights, "--json"],
        capture_output=True, text=True, env=ENV, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert found["accuracy"] > 0.5
    assert found["macs"] > 0
    assert found["params"] > 0


def _hear_interrupts() -> None:
    """A job in the background of a script is started deaf to them, and so are its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_leaves_a_whole_checkpoint_and_no_output(small_cnn, tmp_path):
    out, checkpoint = tmp_path / "net.safetensors", tmp_path / "checkpoint.safetensors"
    command = [sys.executable, "-m", "mipp", "train", *small_cnn, "--epochs", "9999"]
    process = subprocess.Popen(
        [*command, "--out", out, "--resume", checkpoint],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV,
        preexec_fn=_hear_interrupts,  # noqa: PLW1509 - one thread here
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 300
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert checkpoint.exists(), process.communicate()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert error == "error: interrupted\n"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]
