"""The record of a plan of blocks, as plain data, in the names of the model that it is for."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mipp import refusals
from mipp.errors import InputError
from mipp.records import Cost, Refusal
from mipp.surgery.block_names import RemovedBlock
from mipp.surgery.record import json_text, latency, read_json, share

FORMAT = 1
"""Version of the JSON form of a plan of blocks."""
KIND = "blocks"


@dataclass(frozen=True)
class BlockSummary:
    """What a plan does to one block.

    Attributes:
        name: Its path.
        kind: Name of its class.
        residual: Whether it adds its input to its output.
        removed: Place in the order of removal, from 1; 0 for one that stays.
        nats_alone: Lost for each prediction when it alone is skipped.
        nats_then: Lost when it and all that went before it are skipped; NaN for one that stays.
        macs: Multiply-accumulates for one example.
        params: Parameters that nothing else has.
    """

    name: str
    kind: str
    residual: bool
    removed: int
    nats_alone: float
    nats_then: float
    macs: float
    params: int


@dataclass(frozen=True)
class BlockRecord:
    """The content of a plan of blocks.

    Attributes:
        removed: The blocks that go.
        summary: A row for each block, in the order of the model.
        refused: Others, and why they stay.
        before: Cost of the whole model; its units are blocks.
        after: Cost of the model without the blocks.
        nats: Lost for each prediction without the blocks, before anything is fitted.
        options: As in `PlanRecord`.
        fingerprint: As in `PlanRecord`.
        mipp_version: As in `PlanRecord`.
    """

    removed: tuple[RemovedBlock, ...]
    summary: tuple[BlockSummary, ...]
    refused: tuple[Refusal, ...]
    before: Cost
    after: Cost
    nats: float
    options: Mapping[str, Any]
    fingerprint: str
    mipp_version: str

    def __post_init__(self) -> None:
        gone, listed = {b.name for b in self.removed}, {r.name for r in self.summary if r.removed}
        if gone != listed:
            raise InputError("a plan of blocks: expected the blocks of the summary that go")

    def to_json(self) -> str:
        """The plan as JSON text; NaN is written as null."""
        content: dict[str, Any] = {"format": FORMAT, "kind": KIND} | asdict(self)
        for cost in (content["before"], content["after"]):
            if cost["latency"] is None:
                del cost["latency"]
        return json_text(content, "block")

    @classmethod
    def from_json(cls, text: str) -> "BlockRecord":
        """Reads what `to_json` wrote.

        Raises:
            FileError: The text is damaged, or no plan of blocks.
        """

        def problem(content: Mapping[str, Any]) -> str:
            found = content.get("format"), content.get("kind")
            return "" if found == (FORMAT, KIND) else (
                f"not a plan of blocks that this version reads: expected format {FORMAT} of kind "
                f"{KIND!r}, got {found[0]!r} of kind {found[1]!r}. Plans of units are read by "
                "mipp.Plan.from_json."
            )  # fmt: skip

        return read_json(cls, text, problem)

    def notes(self) -> list[str]:
        """Lines that say how to read the figures."""
        return []

    def describe(self) -> list[str]:
        """Plain text: a line for each block, the totals, what was refused and why."""
        width = max((len(row.name) for row in self.summary), default=0)
        lines = []
        for row in self.summary:
            goes = "stays" if not row.removed else (
                f"removed {row.removed}., {row.nats_then:.4g} nats lost by then"
            )  # fmt: skip
            plain = "" if row.residual else ", not residual"
            lines.append(
                f"{row.name:<{width}}  {row.nats_alone:>9.4g} nats alone, "
                f"{row.macs:,.0f} MACs{plain}: {goes}"
            )
        lines += [
            f"{name}: {before:,.0f} -> {after:,.0f} ({share(before, after)} left)"
            for name, before, after in (
                ("blocks", float(self.before.units), float(self.after.units)),
                ("params", float(self.before.params), float(self.after.params)),
                ("MACs", self.before.macs, self.after.macs),
            )
        ]
        lines += latency(self.before.latency, self.after.latency, self.options.get("latency"))
        lines.append(f"lost before a refit: {self.nats:.4g} nats for each prediction")
        return [*lines, *self.notes(), *refusals.in_lines(self.refused, "blocks")]

    def in_order(self) -> list[BlockSummary]:
        """Rows of the blocks that go, in the order of removal."""
        return sorted((row for row in self.summary if row.removed), key=lambda row: row.removed)
