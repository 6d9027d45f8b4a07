"""Which pixels a network needs: accuracy on a selection of them, and a picture of it.

    python -m lab run pixels                      # LeNet5 on MNIST, three seeds
    python -m lab show pixels --picture           # the tables, and docs/img/pixels.png

Pixels are selected from 5120 training images, and every method keeps as many. The network then gets
test images in which the others have their mean (of the training images), or their best linear guess
from those that are kept; and images with the mean again after a short retraining on such images
(4096 of them, once, peak learning rate 0.02, the same for all). Seconds are processor time of one
thread, for the whole order of removal down to 5 %.
"""

import dataclasses
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.feature_selection import mutual_info_classif
from torch import Tensor, nn

import mipp
from lab import parents
from lab.experiment import Experiment, Key, Rows, Settings
from lab.experiments.nets import LENET, SEEDS, parent, test_batches
from lab.measurements import NetSpec
from lab.tables import TextTable, spread
from mipp import data, retrain

SHARES = (0.5, 0.25, 0.1, 0.05)
SAMPLES = 5120
RETRAIN_IMAGES = 4096
PICTURE = Path(__file__).resolve().parents[2] / "docs" / "img" / "pixels.png"
MLP = NetSpec(name="mlp", data="mnist", epochs=retrain.recipe_for("mlp").epochs)

Ranking = Callable[[nn.Module, Tensor, Tensor, int], list[int]]
"""All pixels, those to keep longest last, from (model, images, labels, seed)."""


def by_elimination(**options: Any) -> Ranking:
    """Order of removal against the first layer, or against the labels if ``labels=True``."""
    labels = options.pop("labels", False)

    def rank(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> list[int]:
        found = mipp.select_features(
            x, y if labels else model, keep=min(SHARES), seed=seed, **options
        )
        return [*found.order.tolist(), *found.kept.tolist()]

    return rank


def by_score(score: Callable[[Tensor, Tensor, int], np.ndarray]) -> Ranking:
    """Pixels of the highest scores."""
    return lambda _model, x, y, seed: np.argsort(score(x, y, seed), kind="stable").tolist()


METHODS: dict[str, Ranking] = {
    "first layer, fisher noise": by_elimination(),
    "first layer, fisher noise, ordered": by_elimination(order="ordered"),
    "first layer, noise 0.1": by_elimination(noise=0.1),
    "labels": by_elimination(labels=True),
    "variance": by_score(lambda x, _y, _seed: x.flatten(1).var(0).numpy()),
    "scikit-learn mutual_info_classif": by_score(
        lambda x, y, seed: mutual_info_classif(x.flatten(1), y, random_state=seed)
    ),
    "random": by_score(lambda x, _y, seed: np.random.default_rng(seed).random(x[0].numel())),
}


class OnPixels(nn.Module):
    """A network that gets some pixels; the others are an affine function of those."""

    def __init__(self, model: nn.Module, fill: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.model = model
        self.fill: Tensor
        self.offset: Tensor
        self.register_buffer("fill", fill)
        self.register_buffer("offset", offset)

    def forward(self, x: Tensor) -> Tensor:
        """What the network gives."""
        return self.model((x.flatten(1) @ self.fill + self.offset).view_as(x))


def filled(model: nn.Module, x: Tensor, kept: list[int], how: str) -> OnPixels:
    """The network on the pixels ``kept``, the others with their mean or their linear guess."""
    flat = x.flatten(1).double()
    mean = flat.mean(0)
    fill = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    if how == "linear":
        covariance = torch.cov(flat.T)
        within = covariance[kept][:, kept]
        within.diagonal().add_(1e-3 * within.diagonal().mean())
        fill[kept] = torch.linalg.solve(within, covariance[kept])
        fill[:, kept] = 0
    fill[kept, kept] = 1
    return OnPixels(model, fill.float(), (mean - mean @ fill).float())


def measure(key: Key, _settings: Settings) -> dict[str, Any]:
    """Accuracies of one method at all shares."""
    net, seed, method = LENET, key["seed"], key["method"]
    train, test = data.load(net.data, "train"), test_batches(net)
    batches = data.calibration(train, SAMPLES, 256, seed)
    x, y = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
    started = time.process_time()
    order = METHODS[method](parent(net, seed), x, y, seed)
    seconds = time.process_time() - started
    shown = train.subset(np.random.default_rng(seed).permutation(len(train))[:RETRAIN_IMAGES])
    recipe = dataclasses.replace(parents.recipe_of(net), epochs=1, peak_lr=0.02)
    again = data.Batches(shown, recipe.batch_size, shuffle=True, drop_last=True, seed=seed)
    accuracy: dict[str, dict[str, float]] = {"mean": {}, "linear": {}, "retrained": {}}
    for share in SHARES:
        kept = sorted(order[-round(share * len(order)) :])
        for how in ("mean", "linear"):
            given = filled(parent(net, seed), x, kept, how)
            accuracy[how][str(share)] = retrain.evaluate(given, test).accuracy
        given = filled(parent(net, seed), x, kept, "mean")
        retrain.train(given, again, recipe, seed=seed, progress=False)
        accuracy["retrained"][str(share)] = retrain.evaluate(given, test).accuracy
    whole = retrain.evaluate(parent(net, seed), test).accuracy
    return {"accuracy": accuracy, "unpruned": whole, "seconds_select": round(seconds, 1)}


def tables(rows: Rows) -> Iterator[TextTable | str]:
    """One table for each way to treat the pixels that are not given."""
    whole = spread({row["seed"]: row["unpruned"] for row in rows}.values())
    yield f"{LENET.label}, all pixels {whole} %, {len({r['seed'] for r in rows})} seeds"
    titles = {
        "mean": "the others have their mean",
        "linear": "the others are guessed linearly",
        "retrained": "the others have their mean, after a short retraining",
    }
    for how, title in titles.items():
        lines = []
        for method in METHODS:
            mine = [row for row in rows if row["method"] == method]
            cells = [spread(row["accuracy"][how][str(s)] for row in mine) for s in SHARES]
            lines.append([method, *cells])
        yield TextTable(title, ["pixels", *(f"{s:.0%}" for s in SHARES)], lines)
    lines = [
        [m, spread((r["seconds_select"] for r in rows if r["method"] == m), 1.0)] for m in METHODS
    ]
    yield TextTable("to select them", ["pixels", "seconds"], lines)


def picture(_rows: Rows) -> Path:
    """Kept pixels (orange) on the mean image; a column for each share, a row for each target."""
    train = data.load("mnist", "train")
    batches = data.calibration(train, SAMPLES, 256, 0)
    x, y = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
    mlp = parent(MLP, 0)
    pruned = mipp.prune(mlp, batches, "params=10%")
    rows: list[tuple[Any, dict[str, Any]]] = [
        (parent(LENET, 0), {}),
        (parent(LENET, 0), {"noise": 0.1}),
        (mlp, {}),
        (mlp, {"noise": 0.1}),
        (pruned, {"noise": 0.1}),
        (y, {}),
    ]
    shade = (x.mean(0)[0] - x.min()) / (x.max() - x.min())
    lines = []
    for target, options in rows:
        found = mipp.select_features(x, target, keep=min(SHARES), **options)
        tiles = []
        for share in SHARES:
            kept = found.mask_of(found.last(round(share * found.n_units)))[0]
            tiles.append(tile(shade.numpy(), kept))
        lines.append(np.concatenate(tiles, 1))
    PICTURE.write_bytes(png(np.concatenate(lines, 0)))
    return PICTURE


def tile(shade: np.ndarray, kept: np.ndarray, scale: int = 4, border: int = 4) -> np.ndarray:
    """One mask as pixels (height, width, 3)."""
    gray = (40 + 130 * shade[..., None] * np.ones(3)).astype(np.uint8)
    gray[kept] = (255, 150, 40)
    large = gray.repeat(scale, 0).repeat(scale, 1)
    # a grid, so that neighbours can be told apart
    large[::scale] = large[::scale] // 2
    large[:, ::scale] = large[:, ::scale] // 2
    edges = ((border, border), (border, border), (0, 0))
    return np.pad(large, edges, constant_values=128)


def png(pixels: np.ndarray) -> bytes:
    """A PNG file of ``pixels`` (height, width, 3) of bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checked = kind + body
        return struct.pack(">I", len(body)) + checked + struct.pack(">I", zlib.crc32(checked))

    height, width, _ = pixels.shape
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    # every line starts with the number of its filter, 0 for none
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    packed = zlib.compress(lines, 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


def items(settings: Settings) -> Iterator[Key]:
    """Seed by seed."""
    for seed in range(settings["seeds"]):
        for method in METHODS:
            yield {"net": LENET.label, "seed": seed, "method": method, "samples": SAMPLES}


EXPERIMENT = Experiment(
    name="pixels",
    title="Which pixels a network needs",
    items=items,
    measure=measure,
    tables=tables,
    picture=picture,
    settings=SEEDS,
)
