"""Prune a network of your own: plain PyTorch, on the digits that come with scikit-learn.

    python prune_your_own_model.py FOLDER    # trains for some seconds, writes two files to FOLDER

`Net` and `loaders` can be handed to the command line as well:

    mipp prune --model prune_your_own_model:Net --data prune_your_own_model:loaders \
        --weights FOLDER/full.safetensors --budget macs=10%
"""

import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import mipp


class Net(nn.Module):
    """One residual block: the channels of ``stem`` and ``outer`` are added, so they are tied."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 24, 3, padding=1)
        self.norm = nn.BatchNorm2d(24)
        self.inner = nn.Conv2d(24, 48, 3, padding=1)
        self.outer = nn.Conv2d(48, 24, 3, padding=1)
        self.hidden = nn.Linear(24 * 4, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, 10) of images (n, 1, 8, 8)."""
        x = F.max_pool2d(self.norm(self.stem(x)).relu(), 2)
        x = F.max_pool2d((x + self.outer(self.inner(x).relu())).relu(), 2)
        return self.head(self.hidden(x.flatten(1)).relu())


def loaders() -> tuple[DataLoader, DataLoader]:
    """Training and test batches of pairs (image, digit)."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    is_test = torch.arange(len(labels)) % 5 == 4
    train = TensorDataset(images[~is_test], labels[~is_test])
    test = TensorDataset(images[is_test], labels[is_test])
    return DataLoader(train, batch_size=64, shuffle=True), DataLoader(test, batch_size=256)


def accuracy(model: nn.Module, batches: DataLoader) -> float:
    """Share of the images that the model classifies correctly."""
    model.eval()
    with torch.no_grad():
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in batches)
    return right / len(batches.dataset)


def main(folder: Path) -> None:
    """Train, prune, save and load."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    train, test = loaders()
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(12):
        for x, y in train:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    mipp.save(model, folder / "full.safetensors")

    plan = mipp.plan(model, train, budget="macs=10%")
    print(plan)
    small = plan.apply()
    mipp.save(small, folder / "small.safetensors")
    same = mipp.load(Net, folder / "small.safetensors")

    print(f"accuracy before {accuracy(model, test):.4f}")
    print(f"pruned, no refit {accuracy(plan.apply(refit=False), test):.4f}")
    print(f"pruned           {accuracy(small, test):.4f}")
    print(f"read back        {accuracy(same, test):.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="mipp-")))
