"""Examples from files: arrays of an .npz file, or lines of JSON with lists of numbers."""

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mipp.errors import FileError

TARGETS = ("labels", "label", "y", "target", "targets")
"""Names of what the model should answer; all others are inputs."""
LONE = ("x", "input", "inputs", "image", "images", "data")
"""Names of a single input that is passed without a name."""
SPLITS = ("_train", "_test")
TOKENS, MASK = "input_ids", "attention_mask"
BATCH = 64


class Rows(Dataset[Any]):
    """Examples in columns: tensors of one length.

    Args:
        inputs: by the name with which the model takes them.
        target: what it should answer, or None.
        lone: whether there is one input, which is passed without its name.
    """

    def __init__(self, inputs: Mapping[str, Tensor], target: Tensor | None, lone: bool) -> None:
        self.inputs, self.target, self.lone = inputs, target, lone

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def __getitem__(self, index: int) -> Any:
        row: Any = {name: column[index] for name, column in self.inputs.items()}
        if self.lone:
            (row,) = row.values()
        return row if self.target is None else (row, self.target[index])


@dataclass(frozen=True, eq=False)
class Read:
    """What was read from a file or a folder.

    Attributes:
        training: the examples.
        held_out: those to evaluate on, where the files set some apart.
        batch: number of examples in one batch.
        classes: number of classes, where the examples have any.
        channels: of images.
        in_order: whether neighbours belong together, as the parts of a text.
    """

    training: Dataset[Any]
    held_out: Dataset[Any] | None = None
    batch: int = BATCH
    classes: int | None = None
    channels: int | None = None
    in_order: bool = False


def read_npz(path: Path, name: str) -> Read:
    """Arrays by the names of the inputs, with the examples in dimension 0.

    Names that end in ``_train`` and ``_test`` are the two parts.

    Raises:
        FileError: a damaged file, objects in it, or arrays of different lengths.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise FileError(
            f"--data {name} cannot be read: {error}. Expected a file that numpy.savez wrote, with "
            "arrays of numbers."
        ) from error
    columns = {key: _tensor(array, key, name) for key, array in arrays.items()}
    if columns and all(key.endswith(SPLITS) for key in columns):
        training, held_out = (
            _rows({k.removesuffix(end): v for k, v in columns.items() if k.endswith(end)}, name)
            for end in SPLITS
        )
        return _read(training, held_out)
    return _read(_rows(columns, name))


def read_jsonl(path: Path, name: str) -> Read:
    """Objects with a list of numbers for each input of the model, one a line.

    Raises:
        FileError: a line that is no such object, or examples of different shapes.
    """
    lines = list(json_lines(path, name))
    columns: dict[str, Tensor] = {}
    for key in lines[0]:
        values = [line[key] for line in lines]
        if key == TOKENS and len({len(value) for value in values}) > 1:
            values, mask = padded(values)
            columns.setdefault(MASK, mask)
        elif key == MASK:
            values, _ = padded(values)
        try:
            column = np.asarray(values)
        except ValueError as error:
            raise FileError(
                f"--data {name}: the lists of {key!r} differ in length; expected examples of one "
                f"shape. Only {TOKENS} are padded."
            ) from error
        columns[key] = _tensor(column, key, name)
    return _read(_rows(columns, name))


def json_lines(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """The objects of a file, one a line, all with the same keys.

    Raises:
        FileError: there are none, a line is no object, or one has other keys.
    """
    first: dict[str, Any] = {}
    for number, line in enumerate(_lines(path, name), 1):
        if not line.strip():
            continue
        try:
            read = json.loads(line)
        except ValueError as error:
            raise FileError(
                f"--data {name}: line {number} cannot be read as JSON: {error}. Expected one "
                "object a line."
            ) from error
        if not isinstance(read, dict) or not read:
            raise FileError(
                f"--data {name}: line {number} is no object with fields; expected a text, such as "
                '{"text": "..."}, or lists of numbers by the names of the inputs.'
            )
        first = first or read
        if read.keys() != first.keys():
            raise FileError(
                f"--data {name}: line {number} has {', '.join(read)}; expected the fields of the "
                f"first line, {', '.join(first)}."
            )
        yield read
    if not first:
        raise FileError(f"--data {name} is empty; expected one JSON object a line.")


def _lines(path: Path, name: str) -> Sequence[str]:
    return read_words(path, name).splitlines()


def read_words(path: Path, name: str) -> str:
    """The text of a file; `FileError` where it is none."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(
            f"--data {name} cannot be read: {error}. Expected a text file in UTF-8."
        ) from error


def padded(rows: Sequence[Sequence[int]], value: int = 0) -> tuple[list[list[int]], Tensor]:
    """Rows in the length of the longest, and a mask of what is no padding."""
    longest = max(map(len, rows))
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return [[*row, *[value] * (longest - len(row))] for row in rows], mask


def classes_in(target: Tensor | None) -> int | None:
    """The number of classes, where the targets are class indices."""
    if target is None or target.is_floating_point() or target.dim() != 1:
        return None
    return int(target.max()) + 1


def _tensor(column: np.ndarray[Any, Any], key: str, name: str) -> Tensor:
    if column.dtype.kind not in "biuf" or column.ndim == 0:
        raise FileError(
            f"--data {name}: {key!r} holds {column.dtype} of shape {column.shape}; expected "
            "numbers, with the examples in dimension 0."
        )
    kind = np.float32 if column.dtype.kind == "f" else np.int64
    return torch.from_numpy(column.astype(kind))


def _rows(columns: Mapping[str, Tensor], name: str) -> Rows:
    lengths = {key: len(column) for key, column in columns.items()}
    inputs = {key: column for key, column in columns.items() if key not in TARGETS}
    if not inputs or len(set(lengths.values())) != 1 or not min(lengths.values()):
        found = ", ".join(f"{key}: {count}" for key, count in lengths.items()) or "nothing"
        raise FileError(
            f"--data {name} has examples in {found}; expected one or more inputs, and the same "
            f"number of examples in all. Targets go by the name {' or '.join(TARGETS)}."
        )
    target = next((columns[key] for key in TARGETS if key in columns), None)
    lone = len(inputs) == 1 and next(iter(inputs)) in LONE
    return Rows(inputs, target, lone)


def _read(training: Rows, held_out: Rows | None = None) -> Read:
    parts = [training] if held_out is None else [training, held_out]
    counts = [classes_in(part.target) for part in parts]
    known = [count for count in counts if count is not None]
    return Read(training, held_out, classes=max(known) if len(known) == len(parts) else None)
