"""Layers are timed as the model runs them, each look once."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from mipp.latency import never_falling, time_layers

CPU = torch.device("cpu")


class Seen(TorchFunctionMode):
    """Shapes and layouts of what convolutions and linear layers take in."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.conv2d, torch.conv_transpose2d, nn.functional.linear):
            last = [t.dim() == 4 and t.is_contiguous(memory_format=torch.channels_last)
                    for t in args[:2]]  # fmt: skip
            self.calls.append((tuple(args[0].shape), tuple(args[1].shape), args[0].dtype, *last))
        return func(*args, **(kwargs or {}))


def timed(model, x, shares=(0.5, 1)):
    """The table, and what was run for it."""
    seen = []

    def stopwatch(works, *, seconds, fewest, device):
        with Seen() as calls:
            for work in works:
                work()
        seen.extend(calls.calls)
        return [np.full(fewest, 1.0) for _ in works]

    table, outputs = time_layers(
        model.eval(), lambda: model(x), lambda key: True, stopwatch, CPU, shares=shares, seconds=0
    )
    return table, outputs, seen


@pytest.mark.parametrize("form", [torch.channels_last, torch.contiguous_format])
def test_memory_format_and_number_type_are_the_models(form):
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3)).to(
        torch.bfloat16, memory_format=form
    )
    x = torch.randn(2, 4, 8, 8).to(torch.bfloat16, memory_format=form)
    _, _, seen = timed(model, x)
    assert len(seen) == 8
    last = form is torch.channels_last
    assert all(call[2:] == (torch.bfloat16, last, last) for call in seen)
    assert {(call[0][1], call[1][0]) for call in seen[:4]} == {(2, 4), (2, 8), (4, 4), (4, 8)}


def test_layers_that_look_alike_are_timed_once():
    model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(5)))
    table, _, seen = timed(model, torch.randn(3, 6))
    assert [layer.name for layer in table.layers] == ["0", "1", "2", "3", "4"]
    assert len(seen) == 4
    model[1].bias = None
    assert len(timed(model, torch.randn(3, 6))[2]) == 8


def test_outputs_are_in_proportion_to_what_a_layer_makes():
    model = nn.Sequential(
        nn.Conv2d(4, 8, 1), nn.Conv2d(8, 16, 3, padding=1, groups=8), nn.ConvTranspose2d(16, 2, 2),
        nn.ConvTranspose2d(2, 4, 1, groups=2), nn.Conv2d(4, 8, 1, groups=2),
    )  # fmt: skip
    _, outputs, _ = timed(model, torch.randn(1, 4, 5, 5))
    first, depth, up, depth_up, grouped = (layer.values for layer in outputs.layers)
    assert first.tolist() == [[100, 200], [100, 200]]
    assert depth.tolist() == [200, 400]
    assert up.tolist() == [[36, 72], [36, 72]]
    assert depth_up.tolist() == [72, 144]
    assert grouped == 288  # neither side of it can get smaller
    assert outputs.layers[4].axes == ()


def test_a_wider_layer_is_never_the_faster_one():
    values = np.array([[1.0, 3.0, 2.0], [2.0, 2.0, 4.0]])
    smooth = never_falling(values)
    assert (np.diff(smooth, axis=0) >= 0).all()
    assert (np.diff(smooth, axis=1) >= 0).all()
    rising = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert np.array_equal(never_falling(rising), rising)
    assert never_falling(np.array(2.0)) == 2
