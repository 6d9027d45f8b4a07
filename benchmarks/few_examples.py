"""What a refit does from a handful of images: none, least squares, a ridge that is chosen.

    python benchmarks/few_examples.py    # one minute on one core

Three digits MLPs (64-128-64-10) are pruned to a quarter of their MACs from so many images, drawn
twice from the training images; accuracy on the other third, in percent, before any retraining. The
fewest rows that are fitted at all (`FEWEST` in `mipp.surgery.refit.held_out`) were chosen on these
networks.
"""

import warnings
from statistics import mean, stdev

import torch
from common import table
from sklearn.datasets import load_digits
from torch import Tensor, nn

import mipp

IMAGES = (2, 4, 8, 16, 64)
SEEDS = (0, 1, 2)
DRAWS = (0, 300)
WAYS: dict[str, mipp.Refit | bool] = {
    "no refit": False,
    "always": mipp.Refit(few_rows=0.0),
    "chosen": mipp.Refit(),
}


def digits() -> tuple[Tensor, Tensor]:
    """All images, from 0 to 1, and their labels, in an order drawn once."""
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return torch.tensor(x / 16).float()[order], torch.tensor(y)[order]


def trained(x: Tensor, y: Tensor, seed: int) -> nn.Module:
    """An MLP after 40 epochs of Adam."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(40):
        for part in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[part]), y[part]).backward()
            optimizer.step()
    return net.eval()


def main() -> None:
    """Prints the table."""
    warnings.simplefilter("ignore", mipp.CalibrationWarning)
    x, y = digits()
    first = len(x) * 2 // 3
    nets = [trained(x[:first], y[:first], seed) for seed in SEEDS]
    rows = []
    for n in IMAGES:
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        for net in nets:
            for start in DRAWS:
                plan = mipp.plan(net, [x[start : start + n]], budget="macs=25%")
                for way, refit in WAYS.items():
                    right = plan.apply(refit)(x[first:]).argmax(1) == y[first:]
                    found[way].append(100 * float(right.float().mean()))
        rows.append([str(n), *(f"{mean(v):.1f} ± {stdev(v):.1f}" for v in found.values())])
    print(table(["images", *WAYS], rows))


if __name__ == "__main__":
    main()
