"""``mipp export``."""

import pytest

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


def test_export_of_a_pruned_model_checks_and_times_it(mipp, small_cnn, weights, tmp_path):
    small, file = tmp_path / "small.safetensors", tmp_path / "small.onnx"
    given = ("--weights", weights, "--budget", "units=50%", "--samples", 64, "--out", small)
    assert mipp("prune", *small_cnn, *given).code == 0
    done = mipp("export", *small_cnn, "--weights", small, "--onnx", file, "--json")
    assert done.code == 0, done.err
    found = done.json
    assert found["batch_sizes"] == [1, 3]
    assert found["difference"] < 1e-4
    assert found["bytes"] == file.stat().st_size
    assert {name: set(row) for name, row in found["latency_ms"].items()} == {
        "model": {"pytorch", "onnxruntime"}, "unpruned": {"pytorch", "onnxruntime"},
    }  # fmt: skip
    assert all(ms > 0 for row in found["latency_ms"].values() for ms in row.values())
    assert "unpruned" in done.err
    assert "at batch size 1 and 3" in " ".join(done.err.split())


def test_export_refuses_before_any_work(mipp, small_cnn, tmp_path):
    done = mipp("export", *small_cnn, "--onnx", tmp_path / "net.bin")
    assert done.code == 1
    assert ".onnx" in done.err
