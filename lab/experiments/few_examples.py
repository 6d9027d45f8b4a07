"""What a refit does from a handful of images: none, least squares, a ridge that is chosen.

    python -m lab run few_examples    # one minute on one core

Three digits MLPs (64-128-64-10) are pruned to a quarter of their MACs from so many images, drawn
twice from the training images; accuracy on the other third, in percent, before any retraining. The
fewest rows that are fitted at all (`FEWEST` in `mipp.surgery.refit.held_out`) were chosen on these
networks.
"""

import warnings
from functools import cache
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import mipp
from lab.experiment import Experiment, Key, Rows, Settings
from lab.tables import TextTable, spread

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


@cache
def nets() -> list[nn.Module]:
    """A net for each seed."""
    x, y = digits()
    first = len(x) * 2 // 3
    return [trained(x[:first], y[:first], seed) for seed in SEEDS]


def measure(key: Key, _settings: Settings) -> dict[str, Any]:
    """Accuracy of each way, in percent, for each net and draw."""
    warnings.simplefilter("ignore", mipp.errors.CalibrationWarning)
    x, y = digits()
    first, n = len(x) * 2 // 3, key["images"]
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for net in nets():
        for start in DRAWS:
            plan = mipp.plan(net, [x[start : start + n]], budget="macs=25%")
            for way, refit in WAYS.items():
                right = plan.apply(refit)(x[first:]).argmax(1) == y[first:]
                found[way].append(100 * float(right.float().mean()))
    return {"accuracy": found}


def tables(rows: Rows) -> list[TextTable]:
    """A line for each number of images."""
    lines = [
        [str(row["images"]), *(spread(row["accuracy"][way], 1.0) for way in WAYS)] for row in rows
    ]
    return [TextTable("", ["images", *WAYS], lines)]


EXPERIMENT = Experiment(
    name="few_examples",
    title="What a refit does from a handful of images",
    items=lambda _: ({"images": n} for n in IMAGES),
    measure=measure,
    tables=tables,
    threads=1,
)
