"""A small residual network with squeeze-and-excite, trained on CIFAR-10 once and then cached."""

from filelock import FileLock
from torch import Tensor, nn
from torch.nn import functional as F

from lab import parents
from mipp import data, retrain, surgery

EPOCHS = 2
NAME = f"excited-cifar10-e{EPOCHS}-seed0"


class Excited(nn.Module):
    """Two convolutions with squeeze-and-excite (Hu et al. 2018) between, beside a shortcut."""

    def __init__(self, n_in: int, middle: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, middle, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(middle)
        self.fc1, self.fc2 = nn.Linear(middle, middle // 4), nn.Linear(middle // 4, middle)
        self.conv2 = nn.Conv2d(middle, n_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_out)
        self.skip: nn.Module = nn.Identity()
        if (n_in, stride) != (n_out, 1):
            short = nn.Conv2d(n_in, n_out, 1, stride, bias=False)
            self.skip = nn.Sequential(short, nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """The block."""
        y = F.relu(self.norm1(self.conv1(x)))
        gate = self.fc2(F.relu(self.fc1(y.mean((2, 3))))).sigmoid()
        y = self.norm2(self.conv2(y * gate[:, :, None, None]))
        return F.relu(self.skip(x) + y)


def untrained() -> nn.Module:
    """Five blocks, 16 to 64 wide."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        Excited(16, 32, 16, 1), Excited(16, 32, 32, 2), Excited(32, 64, 32, 1),
        Excited(32, 64, 64, 2), Excited(64, 128, 64, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def trained() -> nn.Module:
    """The net after `EPOCHS`, from the cache or trained now."""
    path = parents.cache() / f"{NAME}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    net = untrained()
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            return surgery.load(net, path).eval()
        images = data.load("cifar10", "train")
        batches = data.Batches(images, 128, shuffle=True, drop_last=True, augment=True, seed=0)
        recipe = retrain.Recipe(epochs=EPOCHS, peak_lr=0.1, channels_last=True, augment=True)
        retrain.train(net, batches, recipe, seed=0, progress=False)
        surgery.save(net, path)
    return net.eval()
