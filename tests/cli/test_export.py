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
    assert done.code == 2
    (tmp_path / "net.onnx").write_text("of another run")
    done = mipp("export", *small_cnn, "--onnx", tmp_path / "net.onnx")
    assert done.code == 1
    assert "or --force to replace it" in " ".join(done.err.split())
    assert ".onnx" in done.err


TEXTS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(9, 6), nn.Linear(6, 3)
    def forward(self, tokens):
        return self.out(self.embed(tokens).relu().mean(1))

def batches():
    pairs = [(torch.randint(0, 9, (4, 7)), torch.zeros(4, dtype=torch.int64))]
    return pairs, pairs
"""


def test_the_length_of_texts_is_left_open_on_request(mipp, tmp_path, monkeypatch):
    import numpy as np
    import onnxruntime

    (tmp_path / "own_texts.py").write_text(TEXTS)
    monkeypatch.chdir(tmp_path)
    given = ("export", "-m", "own_texts:Net", "--data", "own_texts:batches", "--onnx")
    for file, flag, lengths in (("one.onnx", (), [7]), ("any.onnx", ("--dynamic-length",), [7, 5])):
        done = mipp(*given, tmp_path / file, *flag)
        assert done.code == 0, done.err
        session = onnxruntime.InferenceSession(tmp_path / file)
        name = session.get_inputs()[0].name
        assert (session.get_inputs()[0].shape[1] == 7) == (not flag)
        for length in lengths:
            (made,) = session.run(None, {name: np.zeros((2, length), np.int64)})
            assert made.shape == (2, 3)
