"""Layers that are timed in ONNX Runtime compute what they compute in PyTorch."""

import pytest
import torch
from torch import nn

from mipp.export.onnx_layers import onnx_layer
from mipp.latency import take_turns, time_layers


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 4), (3, 6)),
        (nn.Linear(6, 4, bias=False), (2, 3, 6)),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 9, 8)),
        (nn.Conv2d(4, 6, (3, 5), padding="same", dilation=(1, 2), bias=False), (2, 4, 9, 8)),
        (nn.Conv2d(4, 4, 3, groups=4, padding="valid"), (2, 4, 9, 8)),
        (nn.Conv2d(4, 6, 3, groups=2, dilation=2, padding=(2, 1)), (2, 4, 9, 8)),
        (nn.Conv1d(4, 6, 3, padding=1), (4, 10)),
        (nn.Conv3d(2, 3, 2), (1, 2, 4, 5, 6)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (2, 4, 5, 5)),
        (nn.ConvTranspose1d(4, 4, 3, groups=2), (2, 4, 5)),
    ],
    ids=str,
)
def test_a_layer_computes_the_same(layer, shape):
    torch.manual_seed(0)
    x, made = torch.randn(shape), []

    def ready(one):
        made.append((one(), onnx_layer(one)()[0]))
        return one

    time_layers(
        layer.eval(), lambda: layer(x), lambda key: key.dim == 0, take_turns, torch.device("cpu"),
        shares=(0.5, 1), seconds=0.0, ready=ready,
    )  # fmt: skip
    assert len(made) >= 1
    for mine, found in made:
        same = torch.from_numpy(found).reshape(mine.shape)
        torch.testing.assert_close(same, mine, rtol=1e-4, atol=1e-5)
    assert any(mine.shape == layer(x).shape for mine, _ in made)
