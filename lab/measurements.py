"""One measurement of a benchmark as it lies on disk: a line of JSON that says all about itself.

``lab/records/NAME.jsonl`` has one `Record` of a suite a line, or one `Row` of an experiment. A
record is whole or absent: what a killed process
left of its last line is no record, and is dropped when the next one is written.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mipp.errors import FileError

Stage = Literal["trained", "init"]
"""Whether a trained net is pruned, or one at its initialisation."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class NetSpec(_Part):
    """Built-in ``name``, factor on its ``width``, its ``data`` set, ``epochs`` of its training."""

    name: str
    width: float = Field(default=1.0, gt=0)
    data: str
    epochs: int = Field(ge=1)

    @property
    def label(self) -> str:
        """Short name for tables and files: ``vgg11-w0.25/cifar10``."""
        width = "" if self.width == 1.0 else f"-w{self.width:g}"
        return f"{self.name}{width}/{self.data}"


class MethodSpec(_Part):
    """How units are chosen: a method's ``name`` and its ``options``; ``label`` is only shown.

    ``retrain_from``: ``"refit"`` retrains from the refitted weights, else from those that are left.
    """

    label: str
    name: str
    options: dict[str, Any] = {}
    retrain_from: Literal["refit"] | None = None


class Calibration(_Part):
    """``samples``: images that a method may look at."""

    samples: int = Field(ge=1)


class Retraining(_Part):
    """``epochs`` and highest ``rate`` (the recipe's with None) of the training after pruning."""

    epochs: int = Field(ge=1)
    rate: float | None = Field(default=None, gt=0)


class Item(_Part):
    """All that determines one result.

    ``fraction``: share of the training images that there are, for parent and retraining.
    ``imbalance``: n for classes of which the rarest has one image where the commonest has n.
    ``deformation``: of all images, see `lab.deform`. ``initial``: for ``kind="scratch"``, the
    ``"pruned"`` weights, or new ones in the ``"plan"``'s or ``"uniform"`` widths. ``training``: of
    nets from scratch, ``"epochs"`` as many as parent and retraining, or as much ``"compute"``, but
    ``most`` times those epochs.
    """

    kind: str
    net: NetSpec
    stage: Stage | None = None
    seed: int = Field(ge=0)
    method: MethodSpec | None = None
    budget: str | None = None
    calibration: Calibration | None = None
    retraining: Retraining | None = None
    fraction: float | None = Field(default=None, gt=0, le=1)
    imbalance: int | None = Field(default=None, ge=1)
    deformation: str | None = None
    initial: Literal["pruned", "plan", "uniform"] | None = None
    training: Literal["epochs", "compute"] | None = None
    most: float | None = Field(default=None, ge=1)

    def content(self) -> dict[str, Any]:
        """As plain data, what is None left out."""
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def id(self) -> str:
        """16 hex digits, from all but the method's label."""
        content = self.content()
        content.get("method", {}).pop("label", None)
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def chosen_by(self) -> dict[str, tuple[Any, ...]]:
        """The words that options of the command line find it by."""
        method = () if self.method is None else (self.method.label, self.method.name)
        return {
            "--seeds": (self.seed,),
            "--stage": (self.stage,),
            "--nets": (self.net.label, self.net.name),
            "--methods": method,
        }

    @property
    def pace_keys(self) -> list[tuple[str, ...]]:
        """Items that take about as long, the most alike first."""
        if self.kind == "parent":
            return [("parent", self.net.label, str(self.fraction)), ("parent",)]
        method = "" if self.method is None else self.method.label
        whole = (self.kind, self.net.label, str(self.stage), method, str(self.initial))
        return [whole, whole[:3], whole[:2], whole[:1]]

    @property
    def words(self) -> str:
        """The measurement in a line."""
        label = self.method.label if self.method else None
        parts = (self.kind, self.net.label, self.stage, f"seed {self.seed}", label, self.budget)
        return ", ".join(filter(None, parts))


class Accuracies(_Part):
    """Shares of right answers on the test split.

    ``unpruned``: the parent; ``at_once``: pruned, with the weights that the method leaves;
    ``refit``: with the least-squares fit that all methods share; ``retrained``: from ``at_once``.
    """

    unpruned: float | None = None
    at_once: float | None = None
    refit: float | None = None
    retrained: float | None = None


class Costs(_Part):
    """Multiply-accumulates an example, parameters, units that can be pruned."""

    macs: float
    params: int
    units: int


class Left(_Part):
    """What is left after pruning, as shares; the node ratio is ``1 - units``."""

    macs: float
    params: float
    units: float


class CostChange(_Part):
    """Costs before and after pruning."""

    before: Costs
    after: Costs


class Seconds(_Part):
    """``plan``: until the units are chosen; ``total``: the whole item, without the parent."""

    plan: float | None = None
    apply: float | None = None
    retrain: float | None = None
    total: float


class OwnTraining(_Part):
    """Training beyond the parent's and the retraining that all share.

    ``epochs``, and multiply-accumulates of all forward passes: what a method does by itself, or the
    whole training of a net from scratch.
    """

    epochs: float
    macs: float | None = None


class Result(_Part):
    """What was found; every kind fills in its own part and leaves the others None.

    ``widths``: group -> units [left, before], outputs first. ``collapsed``: groups without a unit
    (they keep one of zeros in the shapes). ``at_floor``: groups with exactly one unit left.
    ``untrainable``: the pruned net gives the same outputs whatever its input. ``nats``: group ->
    nats per example that it tells its consumers [before, lost]; for ``ablation`` measured on
    held-out images by one estimator for all methods. ``peak_memory``: bytes that finding the units
    took beyond what the process had before. ``train_images``: how many there were to learn from.
    """

    accuracy: Accuracies | None = None
    balanced_accuracy: Accuracies | None = None
    left: Left | None = None
    cost: CostChange | None = None
    widths: dict[str, tuple[int, int]] | None = None
    collapsed: list[str] | None = None
    at_floor: list[str] | None = None
    untrainable: bool | None = None
    nats: dict[str, tuple[float, float]] | None = None
    seconds: Seconds
    peak_memory: int | None = None
    own_training: OwnTraining | None = None
    train_images: int | None = None


class Versions(_Part):
    """Of what computed it."""

    mipp: str
    torch: str
    python: str


class Machine(_Part):
    """What computed it.

    ``memory`` in bytes; ``threads`` that torch used; ``device``: cpu, or the accelerator's name.
    """

    processor: str
    cores: int
    threads: int
    memory: int
    device: str


class Record(_Part):
    """One line of a suite's file. ``finished``: ISO 8601, UTC."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    suite: str
    id: str
    item: Item
    result: Result
    versions: Versions
    machine: Machine
    commit: str | None = None
    command: str
    finished: str

    def line(self) -> str:
        """The record as one line, without its end."""
        content = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return json.dumps(content | {"commit": self.commit}, allow_nan=False)

    @property
    def seconds(self) -> float:
        """How long the measurement took."""
        return self.result.seconds.total

    @property
    def pace_keys(self) -> list[tuple[str, ...]]:
        """Items that take about as long, the most alike first."""
        return self.item.pace_keys

    @property
    def words(self) -> str:
        """The measurement in a line."""
        return self.item.words


class Row(BaseModel):
    """One line of an experiment's file: the ``id``, the key, the result, and what measured it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str

    @property
    def content(self) -> dict[str, Any]:
        """Key and result in one."""
        return self.model_extra or {}

    def line(self) -> str:
        """The record as one line, without its end."""
        return json.dumps({"id": self.id} | self.content)

    @property
    def seconds(self) -> float:
        """How long the measurement took."""
        return float(self.content.get("seconds_in_all", 0.0))

    @property
    def pace_keys(self) -> list[tuple[str, ...]]:
        """Items that take about as long, the most alike first."""
        return [("experiment",)]

    @property
    def words(self) -> str:
        """What was measured, in a line."""
        hidden = ("machine", "torch", "mipp")
        return json.dumps({k: v for k, v in self.content.items() if k not in hidden})


AnyRecord = TypeVar("AnyRecord", Record, Row)


@dataclass(frozen=True)
class Read(Generic[AnyRecord]):
    """Records of a file in its order; ``torn``: a killed process left half a line at the end."""

    records: tuple[AnyRecord, ...]
    torn: bool = False


def read(path: Path, model: type[AnyRecord] = Record) -> Read[AnyRecord]:  # type: ignore[assignment]
    """All records of a file, each as a ``model``; none if it is not there.

    Raises:
        FileError: a line, other than one without an end, that is no record; names the line.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    records, torn = [], False
    for number, line in enumerate(lines, 1):
        try:
            records.append(model.model_validate_json(line))
        except ValidationError as error:
            if number == len(lines) and not line.endswith(b"\n"):
                torn = True
                continue
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise FileError(
                f"{path}, line {number} is no record of the lab: {where or 'all of it'}: "
                f"{first['msg']}. Restore the file from version control, or delete the line; "
                "what it measured is then measured again."
            ) from error
    return Read(tuple(records), torn)
