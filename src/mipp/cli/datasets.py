"""Data by the names that the command line takes."""

from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Subset

from mipp import data, models
from mipp.cli.file_rows import read_jsonl, read_npz
from mipp.cli.image_folders import read_images
from mipp.cli.model_names import Network
from mipp.cli.own_code import called, find
from mipp.cli.text_files import read_text, read_text_rows
from mipp.data.image_batches import Batch
from mipp.errors import FileError, InputError

OPTION = "--data"
EVALUATION_BATCH = 256
AUGMENTED = ("cifar10", "cifar100")
"""Data sets whose images mean the same when mirrored and shifted; digits do not."""
HELD_OUT = 5
"""One of so many examples of a file is for testing, and the others for calibration and training."""


@dataclass(frozen=True)
class DataOptions:
    """What the command line says about data, beside their name.

    Attributes:
        root: folder of the built-in data.
        tokenizer: folder of the tokenizer; None for that of the model.
        shape: of one input, as it is written.
        seed: of orders, and of which examples are held out.
        task: of the model, where it is known.
    """

    root: Path | None = None
    tokenizer: Path | None = None
    shape: str | None = None
    seed: int = 0
    task: str | None = None


class Catalog:
    """A data set that `mipp.data` knows. Splits are read when they are first used."""

    def __init__(self, name: str, root: Path | None) -> None:
        self.name = name
        self._split = cache(partial(data.load, name, root=root))
        test = self._split("test")
        self.classes: int | None = test.num_classes
        self.channels: int | None = test.shape[0]

    def train(self, batch_size: int, seed: int, augment: bool) -> data.Batches:
        """The training split, shuffled again in every epoch."""
        return data.Batches(
            self._split("train"),
            batch_size,
            shuffle=True,
            seed=seed,
            augment=augment and self.name in AUGMENTED,
        )

    def test(self) -> data.Batches:
        """The test split, in order."""
        return data.Batches(self._split("test"), EVALUATION_BATCH)

    def calibration(self, samples: int | None, seed: int) -> list[Batch]:
        """A balanced part of the training split, at most ``samples`` images."""
        split = self._split("train")
        number = len(split) if samples is None else min(samples, len(split))
        return data.calibration(split, number, EVALUATION_BATCH, seed)


@dataclass(frozen=True, eq=False)
class Own:
    """The batches that a function of the user returned."""

    name: str
    batches: Iterable[Any]
    held_out: Iterable[Any]
    classes: int | None = None
    channels: int | None = None

    def train(self, batch_size: int, seed: int, augment: bool) -> Iterable[Any]:  # noqa: ARG002
        """The user's training batches as they are."""
        return self.batches

    def test(self) -> Iterable[Any]:
        """The user's test batches as they are."""
        return self.held_out

    def calibration(self, samples: int | None, seed: int) -> Iterable[Any]:  # noqa: ARG002
        """The user's training batches; planning takes what it needs from the start."""
        return self.batches


@dataclass(frozen=True, eq=False)
class Files:
    """Examples that were read from a file or a folder.

    Attributes:
        name: on the command line.
        training: what calibration and training see.
        held_out: what is evaluated on.
        batch: number of examples in one batch.
        classes: number of classes, where the examples have any.
        channels: of images.
    """

    name: str
    training: Dataset[Any]
    held_out: Dataset[Any]
    batch: int
    classes: int | None = None
    channels: int | None = None

    def train(self, batch_size: int, seed: int, augment: bool) -> DataLoader[Any]:  # noqa: ARG002
        """The training part, shuffled again in every epoch."""
        return self._shuffled(self.training, batch_size, seed)

    def test(self) -> DataLoader[Any]:
        """The part that is held out, in order."""
        return DataLoader(self.held_out, self.batch)

    def calibration(self, samples: int | None, seed: int) -> DataLoader[Any]:  # noqa: ARG002
        """The training part, shuffled; planning takes what it needs from the start."""
        return self._shuffled(self.training, self.batch, seed)

    def _shuffled(self, rows: Dataset[Any], size: int, seed: int) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(seed)
        return DataLoader(rows, size, shuffle=True, generator=generator)


Source = Catalog | Own | Files
"""Where batches come from. ``classes`` and ``channels`` are None where they are unknown."""


def find_source(name: str | None, network: Network, options: DataOptions | None = None) -> Source:
    """The data that ``--data`` names, found and checked.

    Without a name, a built-in network gets the digits.

    Raises:
        InputError: no such data set, none for a model of the user, or a function that fails or
            returns something else.
        FileError: files that are damaged or not available.
    """
    options = options or DataOptions()
    if name is None:
        name = _default(network)
    if name in data.names():
        return Catalog(name, options.root)
    kind, separator, rest = name.partition(":")
    if not separator:
        raise InputError(
            f"{OPTION} {name} is not known; expected one of {', '.join(data.names())}, {_FILES}, "
            "or package.module:function for your own."
        )
    if kind in ("images", "text", "jsonl", "npz"):
        return _from_files(kind, Path(rest), name, network, options)
    return _from_function(name)


_FILES = "images:FOLDER, text:FILE, jsonl:FILE, npz:FILE"


def _default(network: Network) -> str:
    if network.name in models.names():
        return "digits"
    raise InputError(
        f"no {OPTION} was given for {network.name}; expected the data that it takes. Give {OPTION} "
        f"with one of {_FILES}, {', '.join(data.names())}, or package.module:function, a function "
        "that returns (training batches, test batches)."
    )


def _from_files(kind: str, path: Path, name: str, network: Network, options: DataOptions) -> Files:
    """The examples of a file or folder; of a single part every fifth is held out."""
    if kind == "images" and not path.is_dir():
        raise FileError(f"{OPTION} {name}: there is no folder {path}. Check the path.")
    if kind != "images" and not path.is_file():
        raise FileError(f"{OPTION} {name}: there is no file {path}. Check the path.")
    if kind == "images":
        read = read_images(path, name, network, options.shape)
    elif kind == "text":
        read = read_text(path, name, network, options)
    elif kind == "npz":
        read = read_npz(path, name)
    else:
        read = read_text_rows(path, name, network, options) or read_jsonl(path, name)
    training, held_out = read.training, read.held_out
    if held_out is None:
        training, held_out = _split(training, read.in_order, options.seed, name)
    return Files(name, training, held_out, read.batch, read.classes, read.channels)


def _split(
    rows: Dataset[Any], in_order: bool, seed: int, name: str
) -> tuple[Dataset[Any], Dataset[Any]]:
    """Four fifths and one fifth: the last of a text, and a random one of other examples."""
    count = len(rows)  # type: ignore[arg-type]
    held = max(1, count // HELD_OUT)
    if count < 2:
        raise InputError(
            f"{OPTION} {name} has {count} example{'s' * (count != 1)}; expected at least 2, one "
            "to calibrate on and one to evaluate on. Give more data, or for texts a smaller "
            "--input, the number of tokens in an example."
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.arange(count) if in_order else torch.randperm(count, generator=generator)
    return Subset(rows, order[:-held].tolist()), Subset(rows, order[-held:].sort().values.tolist())


def _from_function(name: str) -> Own:
    function = find(name, OPTION)
    expected = (
        "expected a function without arguments that returns (training batches, test batches), "
        "each a DataLoader or a list of tensors, pairs (x, y) or dicts of inputs."
    )
    if not callable(function):
        raise InputError(f"{OPTION} {name} is a {type(function).__name__}; {expected}")
    given = called(function, name, OPTION)
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise InputError(f"{OPTION} {name} returned a {type(given).__name__}; {expected}")
    for part in given:
        if not isinstance(part, Iterable):
            raise InputError(f"{OPTION} {name} returned a {type(part).__name__} in it; {expected}")
    batches, held_out = (_repeatable(part) for part in given)
    return Own(name, batches, held_out)


def _repeatable(batches: Iterable[Any]) -> Iterable[Any]:
    """A list where batches can be iterated only once, or have no length."""
    once = isinstance(batches, Iterator) or not isinstance(batches, Sized)
    return list(batches) if once else batches
