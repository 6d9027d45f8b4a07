"""GRAIL's recipe: the map from the units that stay, against a regression by another library."""

import numpy as np
import torch
from torch import nn

from lab.experiments.grail import RIDGE, grail, grams_of, restoring


def forward(model, batch):
    return model(batch)


def correlated(n, d, rank, generator):
    return torch.randn(n, rank, generator=generator) @ torch.randn(rank, d, generator=generator)


def test_the_map_is_the_least_squares_map_of_inputs_to_inputs():
    x = correlated(256, 6, 6, torch.Generator().manual_seed(0)).double()
    stay = torch.tensor([0, 3, 5])
    gram = x.T @ x
    rows = np.sqrt(RIDGE * gram[stay][:, stay].diagonal().mean().item()) * np.eye(3)
    given = np.concatenate([x[:, stay].numpy(), rows])
    wanted = np.concatenate([x.numpy(), np.zeros((3, 6))])
    expected = np.linalg.lstsq(given, wanted, rcond=None)[0].T
    torch.testing.assert_close(restoring(gram, stay).double(), torch.from_numpy(expected),
                               rtol=1e-5, atol=1e-6)  # fmt: skip


def test_grams_are_sums_over_examples_and_positions():
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(3 * 16, 2))
    x = torch.randn(4, 2, 6, 6)
    found = grams_of(net, {"0": net[0], "2": net[2]}, [x[:3], x[3:]], forward)
    rows = x.movedim(1, -1).reshape(-1, 2)
    torch.testing.assert_close(found["0"], rows.T @ rows)
    hidden = net[1](net[0](x)).detach()
    torch.testing.assert_close(found["2"], hidden.T @ hidden)
    assert not net[0]._forward_pre_hooks
    assert net.training


def test_units_that_are_copies_of_others_go_without_a_loss():
    """Each unit has a smaller copy, which magnitude removes; the map puts its weight on the other.

    Convolutions and the linear layer behind a flattened map, whose 4 inputs a unit go together.
    """
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(16, 3),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight[2:] = 0.5 * layer.weight[:2]
            layer.bias[2:] = 0.5 * layer.bias[:2]
    x = torch.randn(256, 1, 6, 6)
    small = grail(net, [x[:128], x[128:]], "units=50%", forward, allocation="uniform")
    assert small[0].out_channels == small[2].out_channels == 2
    scale = net(x).square().mean().sqrt()
    assert (small(x) - net(x)).square().mean().sqrt() < 0.01 * scale
