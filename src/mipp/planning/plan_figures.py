"""A plan in figures for other programs: one flat dict of numbers, or a table of pandas."""

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mipp.errors import InputError
from mipp.records import GroupSummary
from mipp.surgery import PlanRecord
from mipp.surgery.block_record import BlockRecord, BlockSummary
from mipp.surgery.mask_record import LayerSummary, MaskRecord

if TYPE_CHECKING:
    from pandas import DataFrame


def unit_metrics(record: PlanRecord) -> dict[str, float]:
    """Costs, shares and widths of a plan of units, as loggers take them."""
    before, after = record.before, record.after
    pairs: dict[str, tuple[float | None, float | None]] = {
        "macs": (before.macs, after.macs),
        "params": (before.params, after.params),
        "units": (before.units, after.units),
        "latency_ms": (before.latency, after.latency),
    }
    found = _costs(pairs) | _information(record.summary)
    for row in record.summary:
        found[f"width/{row.name}"] = float(row.units_after)
        found[f"kept/{row.name}"] = row.units_after / row.units_before
    return found


def weight_metrics(record: MaskRecord) -> dict[str, float]:
    """Costs, shares and densities of a plan of single weights, as loggers take them."""
    pairs: dict[str, tuple[float | None, float | None]] = {
        "weights": (record.before.weights, record.after.weights),
        "params": (record.before.params, record.after.params),
    }
    found = _costs(pairs) | _information(record.summary)
    for row in record.summary:
        found[f"density/{row.name}"] = row.weights_after / max(row.weights_before, 1)
    return found


def block_metrics(record: BlockRecord) -> dict[str, float]:
    """Costs and nats of a plan of blocks, as loggers take them."""
    before, after = record.before, record.after
    found = _costs(
        {
            "macs": (before.macs, after.macs),
            "params": (before.params, after.params),
            "units": (before.units, after.units),
            "latency_ms": (before.latency, after.latency),
        }
    )
    found["nats/lost"] = record.nats
    for row in record.summary:
        found[f"nats/{row.name}"] = row.nats_alone
        found[f"kept/{row.name}"] = float(not row.removed)
    return found


Summary = Sequence[GroupSummary] | Sequence[LayerSummary] | Sequence[BlockSummary]


def dataframe(summary: Summary) -> "DataFrame":
    """A row for each group, layer or block, by name.

    Raises:
        InputError: pandas is not installed.
    """
    try:
        pandas: Any = importlib.import_module("pandas")
    except ImportError as error:
        raise InputError(
            "to_dataframe needs the package pandas, which is not installed. Install it (pip "
            "install pandas), or read plan.summary, which is plain data."
        ) from error
    return pandas.DataFrame([asdict(row) for row in summary]).set_index("name")


def _costs(pairs: Mapping[str, tuple[float | None, float | None]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, (before, after) in pairs.items():
        if before is None or after is None:
            continue
        found |= {f"{name}/before": float(before), f"{name}/after": float(after)}
        if before:
            found[f"{name}/left"] = after / before
    return found


def _information(summary: Sequence[GroupSummary] | Sequence[LayerSummary]) -> dict[str, float]:
    """The share of the nats that is left, in all and of each; nothing where none were measured."""
    rows = [row for row in summary if math.isfinite(row.nats_before + row.nats_after)]
    before, after = sum(r.nats_before for r in rows), sum(r.nats_after for r in rows)
    found = {"information/left": after / before} if before > 0 else {}
    return found | {
        f"information/{row.name}": row.nats_after / row.nats_before
        for row in rows
        if row.nats_before > 0
    }
