"""Causal language models: neurons and heads go, or whole blocks.

    pip install -e '.[transformers]'
    python -m lab run language    # about three hours of one processor, half an hour of it training

The nets are IgLM and IgLM-S, GPT-2s for antibodies (see language_iglm.py and its licence), and a
small Llama that the lab trains on the sources of Python's standard library (language_llama.py).
All methods get the same calibration examples, drawn anew for each seed, the same budgets and the
same refit. The same share of the MLP neurons and of the heads goes. Quality is measured on text
that nothing was trained or calibrated on. Seconds are processor time of one thread.
"""

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import mipp
from lab.experiment import Experiment, Key, Rows, Settings
from lab.experiments import language_depth
from lab.experiments.language_nets import NAMES, by_frequency, quality, subject
from lab.experiments.nets import SEEDS
from lab.tables import TextTable, spread
from mipp.methods import FLAP

NEURONS, HEADS = "*mlp*", "*attn*"
REMOVED = ("10%", "25%", "37.5%", "50%")
"""Shares of the neurons, and of the heads, that go."""
CONTENDERS: dict[str, dict[str, Any]] = {
    "mipp": {},
    "l2": {"method": "l2", "allocation": "uniform"},
    "flap": {"method": "flap"},
    "obs": {"method": "obs", "allocation": "uniform"},
    "mipp, uniform": {"allocation": "uniform"},
    "flap, uniform": {"method": "flap", "allocation": "uniform"},
    "wanda-sp": {"method": FLAP(metric="wifn", normalise="none"), "allocation": "uniform"},
    "taylor": {"method": "taylor", "allocation": "uniform"},
    "random": {"method": "random", "allocation": "uniform"},
}
"""By default MIPP and FLAP choose how much each layer loses; ``uniform``: all layers lose the same
share."""
THRICE = ("mipp", "l2", "flap", "obs", "mipp, uniform")
"""Contenders with as many draws of the calibration examples as there are seeds; others have one."""


TUNED, TUNED_SHARES = ("mipp", "l2", "flap"), ("25%", "50%")
"""Contenders and shares that are tuned, too, with one draw."""
TUNE = mipp.Tune(passes=5, batch_size=8, learning_rate=2e-4)
"""How: few passes of small batches, as there are few examples and each has many tokens. At 1e-3
throughout so few passes come no closer to the whole net (IgLM-S, MIPP, both shares)."""


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and processor seconds."""
    started = time.process_time()
    return work(), time.process_time() - started


def budget_of(removed: str) -> dict[str, str]:
    """The budget that removes that share of the neurons and of the heads."""
    left = f"units={100 - float(removed.rstrip('%')):g}%"
    return {NEURONS: left, HEADS: left}


def unpruned(name: str) -> dict[str, Any]:
    """The net as it is, and guessing by frequency."""
    it = subject(name)
    found, seconds = timed(lambda: quality(it.model, it.test))
    parameters = sum(p.numel() for p in it.model.parameters())
    made = {"quality": found, "guess": by_frequency(it.test), "test_seconds": seconds}
    return made | {"parameters": parameters, **it.facts}


def pruned(name: str, method: str, seed: int) -> dict[str, Any]:
    """All shares from one measurement: quality without and with the refit, and what it took."""
    it, options = subject(name), CONTENDERS[method]
    data, budgets = it.calibration(seed), [budget_of(removed) for removed in REMOVED]
    plans, seconds = timed(lambda: mipp.plans(it.model, data, budgets, seed=seed, **options))
    found: dict[str, Any] = {"plan_seconds": seconds}
    for removed, plan in zip(REMOVED, plans, strict=True):
        small, refit_seconds = timed(partial(plan.apply, refit=True))
        found[removed] = {
            "none": it.quality(plan.apply(refit=False)),
            "refit": it.quality(small),
            "refit_seconds": refit_seconds,
            "params": plan.after.params / plan.before.params,
            "macs": plan.after.macs / plan.before.macs,
            "widths": {group: len(units) for group, units in plan.keep.items()},
        }
    return found


def tuned(name: str, method: str, seed: int) -> dict[str, Any]:
    """After the refit, tuned on the calibration examples, without labels."""
    it, options = subject(name), CONTENDERS[method]
    data, budgets = it.calibration(seed), [budget_of(removed) for removed in TUNED_SHARES]
    found: dict[str, Any] = {}
    for removed, plan in zip(
        TUNED_SHARES, mipp.plans(it.model, data, budgets, seed=seed, **options), strict=True
    ):
        (small, done), seconds = timed(partial(plan.apply_tuned, TUNE))
        found[removed] = {
            "refit": it.quality(plan.apply()),
            "tuned": it.quality(small),
            "tune_seconds": seconds,
            "passes": len(done.passes),
            "kept": done.kept,
        }
    return found


def tables(rows: Rows) -> Iterator[TextTable | str]:
    """For each net the whole net, a table of methods, and one of blocks."""
    for name in NAMES:
        here = [row for row in rows if row["net"] == name]
        nats = None
        for row in here:
            if row["work"] == "unpruned":
                nats = row["quality"]["nats"]
                yield (
                    f"{name}: {row['parameters'] / 1e6:.2f} million parameters, {nats:.3f} nats "
                    f"(perplexity {math.exp(nats):.2f}), {100 * row['quality']['accuracy']:.1f} %; "
                    f"guessing by frequency {row['guess']:.3f} nats"
                )
        yield from _pruned_tables(name, nats, [row for row in here if row["work"] == "pruned"])
        yield from _tuned_tables(name, [row for row in here if row["work"] == "tuned"])
        yield from language_depth.tables(name, [r for r in here if r["work"] == "depth"])


def _pruned_tables(name: str, nats: float | None, rows: Rows) -> Iterator[TextTable]:
    kinds = [
        ("refit", "divergence", 0.0, "divergence from the whole net, with the refit"),
        ("none", "divergence", 0.0, "divergence, without"),
    ]
    if nats is not None:
        kinds.append(("refit", "nats", nats, "nats more than the whole net, with the refit"))
    for how, measure, less, title in kinds:
        lines = []
        for method in CONTENDERS:
            mine = [row for row in rows if row["method"] == method]
            if mine:
                lost = [spread([r[p][how][measure] - less for r in mine], 1, 4) for p in REMOVED]
                plan = spread([sum(r["plan_seconds"] for r in mine) / len(mine)], 1, 0)
                lines.append([method, str(len(mine)), *lost, plan])
        if lines:
            header = ["method", "draws", *REMOVED, "seconds to plan"]
            yield TextTable(f"{name}: {title} (nats a token)", header, lines)


def _tuned_tables(name: str, rows: Rows) -> Iterator[TextTable]:
    lines = []
    for row in rows:
        cells = [
            f"{row[removed][how]['divergence']:.4f}"
            for removed in TUNED_SHARES
            for how in ("refit", "tuned")
        ]
        seconds = f"{row[TUNED_SHARES[-1]]['tune_seconds']:.0f}"
        lines.append([row["method"], *cells, seconds])
    if lines:
        header = ["method", *(f"{p}, {how}" for p in TUNED_SHARES for how in ("refit", "tuned"))]
        title = f"{name}: divergence from the whole net, tuned (nats a token)"
        yield TextTable(title, [*header, "seconds to tune"], lines)


def items(settings: Settings) -> Iterator[Key]:
    """What tells most comes first."""
    for net in NAMES:
        yield {"work": "unpruned", "net": net}
    for seed in range(settings["seeds"]):
        for net in NAMES:
            for method in CONTENDERS:
                if seed == 0 or method in THRICE:
                    yield {"work": "pruned", "net": net, "method": method, "seed": seed}
            yield {"work": "depth", "net": net, "seed": seed}
            for method in TUNED if seed == 0 else ():
                yield {"work": "tuned", "net": net, "method": method, "seed": seed}


def measure(key: Key, _settings: Settings) -> dict[str, Any]:
    """The whole net, plans of one method, or blocks against widths."""
    if key["work"] == "unpruned":
        return unpruned(key["net"])
    if key["work"] == "depth":
        return language_depth.measured(subject(key["net"]), key["seed"])
    work = tuned if key["work"] == "tuned" else pruned
    return work(key["net"], key["method"], key["seed"])


EXPERIMENT = Experiment(
    name="language",
    title="Causal language models: neurons and heads go, or whole blocks",
    items=items,
    measure=measure,
    tables=tables,
    settings=SEEDS,
    threads=1,
)
