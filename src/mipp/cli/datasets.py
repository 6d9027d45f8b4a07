"""Data by the names that the command line takes."""

from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from mipp import data
from mipp.cli.model_names import called, find
from mipp.data.image_batches import Batch
from mipp.errors import InputError

OPTION = "--data"
EVALUATION_BATCH = 256
AUGMENTED = ("cifar10", "cifar100")
"""Data sets whose images mean the same when mirrored and shifted; digits do not."""


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


Source = Catalog | Own
"""Where batches come from. ``classes`` and ``channels`` are None where they are unknown."""


def find_source(name: str, root: Path | None) -> Source:
    """The data that ``--data`` names, found and checked.

    Raises:
        InputError: no such data set, or a function that fails or returns something else.
        FileError: files that are damaged or not available.
    """
    if name in data.names():
        return Catalog(name, root)
    if ":" not in name:
        raise InputError(
            f"{OPTION} {name} is not known; expected one of {', '.join(data.names())}, or "
            "package.module:function for your own."
        )
    function = find(name, OPTION)
    expected = (
        "expected a function without arguments that returns (training batches, test batches), "
        "each a DataLoader or a list of pairs (x, y)."
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
