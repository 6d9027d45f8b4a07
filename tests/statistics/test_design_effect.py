"""The design effect of positions: against sums over positions, and in cases that are known."""

import pytest
import torch
from torch import nn

from mipp.records import Consumer
from mipp.statistics import Batch, capture, design_effect
from mipp.statistics.recorder import CaptureConfig
from mipp.tracing.calls import (
    Call,
    CallHooks,
    input_rows,
    n_positions,
    output_rows,
    weight_matrix,
)

LAYERS = {
    "conv": (nn.Conv2d(4, 5, 3, stride=2, padding=1), (6, 4, 9, 8)),
    "dilated conv": (nn.Conv1d(4, 3, 2, padding="same", dilation=2), (6, 4, 7)),
    "transposed conv": (
        nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1),
        (6, 4, 5, 4),
    ),
    "linear": (nn.Linear(4, 3), (6, 7, 4)),
}


def seen(layer: nn.Module, x: torch.Tensor) -> tuple[Call, torch.Tensor]:
    """The call of a layer and what it gives."""
    calls = []
    with torch.no_grad(), CallHooks(layer, after=lambda call, y: (calls.append((call, y)), y)[1]):
        layer(x)
    return calls[0]


@pytest.mark.parametrize("kind", LAYERS)
def test_it_is_the_sum_within_the_square_over_positions_times_means(kind, monkeypatch):
    layer, shape = LAYERS[kind]
    torch.manual_seed(0)
    call, y = seen(layer, torch.randn(shape))
    gradient, n = torch.randn_like(y), shape[0]

    # residuals are the inputs themselves
    def untold(windows: torch.Tensor, centre: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        mixing = torch.zeros(4, 4, windows.shape[2])
        mixing[:, :, centre] = torch.eye(4)
        return mixing, torch.zeros(4)

    monkeypatch.setattr(design_effect, "_residual_map", untold)
    everywhere = torch.arange(n_positions(call))
    effect = design_effect.DesignEffect()
    effect.update(call, gradient, n, None, everywhere, 0)

    x, g = input_rows(call, everywhere), output_rows(call, gradient, everywhere)
    weight = weight_matrix(call.kind, layer.weight.detach())
    together, alone = 0.0, 0.0
    for i in range(4):
        own = slice(i * weight.shape[1] // 4, (i + 1) * weight.shape[1] // 4)
        delta = x[:, own] @ weight[:, own].T
        together += (delta * g).sum(1).view(n, -1).sum(1).square().mean()
        fisher, covariance = g.T @ g / len(g), delta.T @ delta / len(g)
        alone += len(g) / n * (fisher * covariance).sum()
    assert effect.ratio == pytest.approx(float(together / alone), rel=1e-4)


def test_positions_that_are_alike_count_as_often_as_there_are():
    generator = torch.Generator().manual_seed(0)
    layer, n, tokens = nn.Linear(8, 6), 2000, 5
    found = {}
    for name, each in (("apart", tokens), ("alike", 1)):
        x = torch.randn(n, each, 8, generator=generator).expand(n, tokens, 8)
        gradient = torch.randn(n, each, 6, generator=generator).expand(n, tokens, 6)
        call, _ = seen(layer, x)
        effect = design_effect.DesignEffect()
        effect.update(call, gradient, n, None, torch.arange(0), 0)
        found[name] = effect.ratio
    assert found == pytest.approx({"apart": 1.0, "alike": tokens}, rel=0.1)


def test_tokens_that_are_padding_do_not_count():
    generator = torch.Generator().manual_seed(0)
    layer, real = nn.Linear(8, 6), torch.tensor([0, 1, 2, 5, 6, 7])
    x, gradient = torch.randn(2, 5, 8, generator=generator), torch.zeros(2, 5, 6)
    gradient.view(10, 6)[real] = torch.randn(6, 6, generator=generator)
    found = []
    for scale in (1.0, 100.0):
        wide = x.clone()
        wide[:, 3:] *= scale
        effect = design_effect.DesignEffect()
        effect.update(seen(layer, wide)[0], gradient, 2, real, torch.arange(0), 0)
        found.append(effect.ratio)
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_an_input_that_is_changed_in_place_later_is_copied_from_the_second_batch_on():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            y = self.second(x)
            x.detach().mul_(float("nan"))
            return y.mean((2, 3))

    torch.manual_seed(0)
    net = Net()
    consumer = Consumer("second", "conv", "second.weight", "second.bias", 0, 1, 0, 16, False)
    batches = [Batch((torch.randn(8, 1, 8, 8),), {}) for _ in range(2)]
    config = CaptureConfig(fisher_samples=16)
    found, _ = capture(net, {0: consumer}, batches, loss="gaussian", config=config)
    assert found[0].design_effect > 1


def test_a_map_that_its_neighbour_tells_shifted_leaves_nothing_within_the_window():
    torch.manual_seed(0)
    source = torch.randn(16, 1, 12, 12)
    x = torch.cat([source, source.roll(1, 3)], 1)
    left = {}
    for side in (1, 3):
        call, _ = seen(nn.Conv2d(2, 3, side), x)
        left[side] = float(
            design_effect._residual_maps(call, x, 0)[..., 2:-2, 2:-2].square().mean()
        )
    assert left[1] == pytest.approx(1.0, rel=0.1)
    assert left[3] < 1e-3


def test_small_examples_are_looked_at_until_there_are_enough_numbers(monkeypatch):
    monkeypatch.setattr(design_effect, "ENOUGH", 128 * 64)
    for width, enough in ((32, False), (64, True)):
        call, y = seen(nn.Linear(width, 2), torch.randn(128, width))
        effect = design_effect.DesignEffect()
        effect.update(call, torch.randn_like(y), 128, None, torch.arange(0), 0)
        assert effect.done == enough
