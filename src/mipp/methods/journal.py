"""Eliminations that continue where a killed process stopped.

An elimination asks its scorer one question after another, and does what follows from the answers.
So the answers are all that has to be kept: those on record are given again without a measurement,
and with the first new question the scorer is brought to where it was.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils import _pytree as pytree

from mipp import processes
from mipp.atomic_files import replacing
from mipp.errors import FileError, InputError
from mipp.information.learned.learned_scorer import LearnedScorer
from mipp.options import Options
from mipp.problem import Problem
from mipp.records import FloatArray, IntArray, Scorer
from mipp.surgery import installed_version
from mipp.surgery.weight_files import read_safetensors

FILE = "elimination.safetensors"
"""The file in the folder that the user names."""

SECONDS = 10.0
"""Between two writes; so much work is lost at most, and the answer to one question."""


class Journal:
    """The answers of the scorers of all groups, in one file that is replaced as a whole.

    Args:
        folder: Of the file; it is made with the first write.
        identity: What the answers depend on, in words or as hashes, by what it is.

    Raises:
        InputError: The file there is of another identity.
        FileError: The file cannot be read.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.path, self._identity = folder / FILE, json.loads(json.dumps(identity))
        self._groups: list[dict[str, Any]] = []
        self._tensors: dict[str, Tensor] = {}
        self._at, self._written = 0, time.monotonic()
        if self.path.exists():
            self._read()

    @contextmanager
    def scorer(
        self, key: Mapping[str, Any], n_units: int, make: Callable[[], Scorer]
    ) -> Iterator[Scorer]:
        """A scorer that gives recorded answers first; all are written when its elimination ends.

        Args:
            key: What the answers of this elimination depend on, beside the identity.
            n_units: Number of units.
            make: Makes the real scorer, once it is needed.

        Raises:
            InputError: This elimination on record is another one.
        """
        key = json.loads(json.dumps(key))
        if self._at == len(self._groups):
            self._groups.append({"key": key, "answers": []})
            self._tensors = {}
        group = self._groups[self._at]
        if group["key"] != key:
            raise _other(self.path, f"group {group['key']} in place of {key}")
        last = self._at == len(self._groups) - 1
        recorded = _Recorded(group["answers"], n_units, make, self._tensors if last else {}, self)
        yield recorded
        self._at += 1
        if recorded.is_new:
            self._tensors = {}
            self._write()

    def note(self, scorer: Scorer) -> None:
        """Writes what there is, unless that was done a short time ago."""
        if time.monotonic() - self._written < SECONDS:
            return
        self._tensors = scorer.state() if isinstance(scorer, LearnedScorer) else {}
        self._write()

    def _write(self) -> None:
        content = {"identity": self._identity, "groups": self._groups}
        tensors = {name: t.detach().cpu().contiguous() for name, t in self._tensors.items()}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as partial:
                save_file(tensors, partial, {"journal": json.dumps(content)})
        except OSError as error:
            raise FileError(
                f"{self.path} cannot be written: {error}. resume= takes a folder that can be "
                "made, or written to."
            ) from error
        self._written = time.monotonic()

    def _read(self) -> None:
        self._tensors, metadata = read_safetensors(self.path)
        try:
            found = json.loads(metadata["journal"])
            identity, self._groups = found["identity"], found["groups"]
        except (KeyError, TypeError, ValueError) as error:
            raise FileError(
                f"{self.path} is no state of an elimination: {error!r}. Delete it to begin again."
            ) from error
        differs = [
            f"{name} {_short(identity.get(name))} in place of {_short(self._identity.get(name))}"
            for name in sorted({*identity, *self._identity})
            if identity.get(name) != self._identity.get(name)
        ]
        if differs:
            raise _other(self.path, "; ".join(differs))


class _Recorded:
    """A `mipp.records.Scorer` that asks the real one only what is not on record."""

    def __init__(
        self,
        answers: list[list[Any]],
        n_units: int,
        make: Callable[[], Scorer],
        tensors: Mapping[str, Tensor],
        journal: Journal,
    ) -> None:
        self.n_units = n_units
        self.is_new = False
        self._answers, self._make, self._tensors = answers, make, tensors
        self._journal, self._next = journal, 0

    def total(self) -> FloatArray:
        return np.array(self._ask("total"))

    def solo(self) -> FloatArray:
        return np.array(self._ask("solo"))

    def scores(self) -> FloatArray:
        return np.array(self._ask("scores"))

    def nats_of(self, unit: int) -> FloatArray:
        return np.array(self._ask("nats_of", int(unit)))

    def estimates(self, unit: int) -> FloatArray:
        return np.array(self._ask("estimates", int(unit)))

    def remove(self, unit: int) -> FloatArray:
        return np.array(self._ask("remove", int(unit)))

    def transfers(self, units: IntArray) -> FloatArray:
        return np.array(self._ask("transfers", np.asarray(units).tolist()))

    def remove_least(self, count: int) -> list[tuple[int, FloatArray]]:
        return [(unit, np.array(nats)) for unit, nats in self._ask("remove_least", int(count))]

    @cached_property
    def _scorer(self) -> Scorer:
        """The real scorer, as it was after the answers on record."""
        scorer, removed = self._make(), list(self._removed())
        if isinstance(scorer, LearnedScorer) and self._tensors:
            scorer.restore(self._tensors, removed)
        else:
            for unit in removed:
                scorer.remove(unit)
        return scorer

    def _removed(self) -> Iterator[int]:
        for name, argument, answer in self._answers:
            if name == "remove":
                yield argument
            elif name == "remove_least":
                yield from (unit for unit, _ in answer)

    def _ask(self, name: str, *arguments: Any) -> Any:
        argument = arguments[0] if arguments else None
        if self._next < len(self._answers):
            asked, about, answer = self._answers[self._next]
            if (asked, about) != (name, argument):
                raise _other(self._journal.path, f"{asked}({about}) in place of {name}({argument})")
        else:
            scorer = self._scorer
            answer = _plain(getattr(scorer, name)(*arguments))
            self._answers.append([name, argument, answer])
            self.is_new = True
            self._journal.note(scorer)
        self._next += 1
        return answer


def journal(problem: Problem) -> Journal | None:
    """The journal that ``resume=`` asks for.

    Raises:
        InputError: There are several rounds or processes, or the file there is of other options,
            another model or other batches.
    """
    options = problem.options
    if options.resume is None:
        return None
    if options.rounds > 1 or processes.rank_and_size()[1] > 1:
        raise InputError(
            f"resume={str(options.resume)!r} was given with rounds={options.rounds} in "
            f"{processes.rank_and_size()[1]} processes; expected one round in one process. Leave "
            "resume= out."
        )
    identity = {name: _words(value) for name, value in _values(options)} | {
        "mipp": installed_version(),
        "model": _digest(problem.model.state_dict()),
        "batches": _digest([[b.args, dict(b.kwargs), b.target] for b in problem.batches]),
    }
    return Journal(Path(options.resume), identity)


def digest_of(arrays: Mapping[int, Any]) -> str:
    """Hash of masks by group."""
    return _digest({index: torch.as_tensor(mask) for index, mask in sorted(arrays.items())})


def _values(options: Options) -> Iterator[tuple[str, Any]]:
    # they change no answer
    skipped = ("resume", "memory", "refit", "latency")
    yield from ((f.name, getattr(options, f.name)) for f in fields(options)
                if f.name not in skipped)  # fmt: skip


def _words(value: Any) -> str:
    """The same in every process: without the addresses of objects."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _digest(tree: Any) -> str:
    """Hash of all values in a tree of tensors and plain values."""
    leaves, shape = pytree.tree_flatten(tree)
    found = hashlib.sha256(str(shape).encode())
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            found.update(_words(leaf).encode())
            continue
        dense = leaf.detach().to_dense() if leaf.layout != torch.strided else leaf.detach()
        found.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
        found.update(dense.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def _plain(answer: Any) -> Any:
    """Arrays as lists; a float in JSON comes back to the last bit."""
    if isinstance(answer, np.ndarray):
        return answer.tolist()
    return [[int(unit), nats.tolist()] for unit, nats in answer]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _other(path: Path, differs: str) -> InputError:
    return InputError(
        f"{path} is the state of another elimination: it has {differs}. Expected one of the same "
        "options, model and batches. Give these again, name another folder in resume=, or delete "
        "the file to begin again."
    )
