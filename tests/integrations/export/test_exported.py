"""Pruned models as saved programs of torch.export, in OpenVINO and in ExecuTorch."""

import numpy as np
import pytest
import torch
from torch import nn

import mipp

# of torch's export of its own program
pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")


def cnn():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 32, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5),
    ).eval()  # fmt: skip


def pruned():
    x = torch.randn(32, 3, 16, 16)
    small = mipp.prune(cnn(), [x], "macs=50%")
    assert small[0].out_channels + small[3].out_channels < 56
    with torch.no_grad():
        return small, x, small(x)


def exported(small, x):
    return torch.export.export(small, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))


def test_a_saved_program_gives_the_same_numbers_at_other_batch_sizes(tmp_path):
    small, x, expected = pruned()
    torch.export.save(exported(small, x), tmp_path / "small.pt2")
    again = torch.export.load(tmp_path / "small.pt2").module()
    with torch.no_grad():
        torch.testing.assert_close(again(x), expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(again(x[:5]), expected[:5], rtol=1e-5, atol=1e-6)


def test_openvino_gives_the_same_numbers(tmp_path):
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    small, x, expected = pruned()
    program = openvino.convert_model(exported(small, x))
    openvino.save_model(program, tmp_path / "small.xml", compress_to_fp16=False)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # some processors compute in bfloat16 otherwise
    compiled = openvino.compile_model(tmp_path / "small.xml", "CPU", exact)
    for n in (32, 3):
        found = compiled(x[:n].numpy())[0]
        np.testing.assert_allclose(found, expected[:n].numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what it imports
def test_executorch_gives_the_same_numbers(tmp_path):
    pytest.importorskip("executorch", reason="executorch is not installed")
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    small, x, expected = pruned()
    program = torch.export.export(small, (x[:1],))
    made = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    (tmp_path / "small.pte").write_bytes(made.buffer)
    forward = Runtime.get().load_program(tmp_path / "small.pte").load_method("forward")
    torch.testing.assert_close(forward.execute([x[:1]])[0], expected[:1], rtol=1e-4, atol=1e-5)
