"""What the benchmarks share: trained parents, records that are never measured twice, tables.

Results go to ``benchmarks/results/NAME.jsonl``, one line a measurement; a line that is there is not
measured again, so an interrupted run goes on where it was.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import platformdirs
import torch
from torch import nn

import mipp
from mipp import data, models, retrain

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
CACHE = Path(os.environ.get("MIPP_CACHE", platformdirs.user_cache_dir("mipp"))) / "parents"


@dataclasses.dataclass(frozen=True)
class Net:
    """A network to prune: built-in name, width factor, data set, epochs to train it."""

    name: str
    data: str
    width: float = 1.0
    epochs: int | None = None

    @property
    def label(self) -> str:
        """Short name for tables and files."""
        width = "" if self.width == 1.0 else f"-w{self.width:g}"
        return f"{self.name}{width}/{self.data}"

    def build(self, seed: int = 0) -> nn.Module:
        """An untrained copy."""
        return models.build(self.name, width=self.width, seed=seed)

    def recipe(self) -> retrain.Recipe:
        """The recipe it is trained with."""
        recipe = retrain.recipe_for(self.name)
        return recipe if self.epochs is None else dataclasses.replace(recipe, epochs=self.epochs)


LENET = Net("lenet5", "mnist")
VGG = Net("vgg16", "cifar10", width=0.25, epochs=14)
VGG11 = Net("vgg11", "cifar10", width=0.25, epochs=14)
NETS = {"lenet5": LENET, "vgg16": VGG}


def train_batches(net: Net, recipe: retrain.Recipe, seed: int) -> data.Batches:
    """Shuffled, augmented training batches as the recipe wants them."""
    return data.Batches(
        data.load(net.data, "train"),
        recipe.batch_size,
        shuffle=True,
        drop_last=True,
        augment=recipe.augment,
        seed=seed,
    )


def test_batches(net: Net) -> data.Batches:
    """The test split."""
    return data.Batches(data.load(net.data, "test"), 1000)


def parent(net: Net, seed: int) -> nn.Module:
    """The trained network of that seed, from the cache or trained now."""
    path = CACHE / f"{net.label.replace('/', '-')}-seed{seed}.safetensors"
    model = net.build(seed)
    if path.exists():
        return mipp.load(model, path)
    print(f"training {net.label}, seed {seed}", flush=True)
    recipe = net.recipe()
    retrain.train(model, train_batches(net, recipe, seed), recipe, seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    mipp.save(model, path)
    return model


def finetune(net: Net, model: nn.Module, epochs: float, seed: int, peak_lr: float) -> None:
    """Retrains a pruned model, the same way for every method."""
    recipe = dataclasses.replace(net.recipe(), epochs=epochs, peak_lr=peak_lr)
    retrain.train(model, train_batches(net, recipe, seed + 100), recipe, seed=seed, progress=False)


def outcomes(
    net: Net, plan: "mipp.Plan[nn.Module]", seed: int, epochs: float, peak_lr: float
) -> dict[str, float]:
    """Test accuracy of a plan: weights as they are, refitted, and retrained from as they are."""
    test = test_batches(net)
    bare = plan.apply(refit=False)
    found = {"none": retrain.evaluate(bare, test).accuracy}
    found["refit"] = retrain.evaluate(plan.apply(refit=True), test).accuracy
    if epochs:
        finetune(net, bare, epochs, seed, peak_lr)
        found["retrained"] = retrain.evaluate(bare, test).accuracy
    return found


class Records:
    """Measurements on disk, found by what determines them."""

    def __init__(self, name: str) -> None:
        self.path = RESULTS / f"{name}.jsonl"
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def measure(self, key: dict[str, Any], work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The record of ``key``, measured only if it is not there yet."""
        for row in self.rows:
            if all(row.get(name) == value for name, value in key.items()):
                return row
        started = time.perf_counter()
        row = key | work()
        row["seconds_in_all"] = round(time.perf_counter() - started, 1)
        row |= {"mipp": mipp.__version__, "torch": torch.__version__, "machine": machine()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.rows.append(row)
        print(
            json.dumps({k: v for k, v in row.items() if k not in ("machine", "torch")}), flush=True
        )
        return row

    def forget(self, unwanted: Callable[[dict[str, Any]], bool]) -> None:
        """Removes records, so that they are measured again."""
        self.rows = [row for row in self.rows if not unwanted(row)]
        if self.path.exists():
            self.path.write_text("".join(json.dumps(row) + "\n" for row in self.rows))


def machine() -> str:
    """The processor and how many threads torch uses."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def spread(values: Iterable[float], scale: float = 100.0, digits: int = 1) -> str:
    """Mean and standard deviation over seeds, in percent (or times another ``scale``)."""
    found = [scale * value for value in values]
    if not found:
        return "-"
    if len(found) == 1:
        return f"{found[0]:.{digits}f}"
    return f"{statistics.mean(found):.{digits}f} ± {statistics.stdev(found):.{digits}f}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def arguments(
    description: str, nets: Collection[str] = MappingProxyType(NETS)
) -> argparse.ArgumentParser:
    """Options that the benchmarks have in common."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--nets", nargs="+", default=list(nets), choices=list(nets))
    parser.add_argument(
        "--seeds", type=int, default=3, help="how many parents, trained with seeds 0, 1, ..."
    )
    parser.add_argument("--first-seed", type=int, default=0, help="to share the work")
    parser.add_argument("--samples", type=int, default=2560, help="calibration images")
    parser.add_argument("--show", action="store_true", help="print the tables of what is recorded")
    return parser
