"""A pretrained transformer: half of its MLP neurons and a quarter of its heads go.

    pip install -e '.[transformers]'
    python -m lab run transformer    # about an hour of one processor

The net is AntiBERTy, the texts are antibodies (see antiberty.py, which fetches both). All methods
get the same calibration chains, drawn anew for each seed, the same budgets and the same refit.
Quality is measured on chains of other clones: cross-entropy in nats and accuracy at masked
residues. Seconds are processor time of one thread.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

import mipp
from lab.experiment import Experiment, Key, Rows, Settings
from lab.experiments import antiberty
from lab.experiments.nets import SEEDS
from lab.tables import TextTable, spread

NEURONS, HEADS = "*.intermediate*", "*attention*"
HALF = {NEURONS: "units=50%", HEADS: "units=75%"}
BUDGETS: dict[str, Mapping[str, str]] = {
    "half": HALF,
    "neurons 75%": {NEURONS: "units=75%"},
    "neurons 50%": {NEURONS: "units=50%"},
    "neurons 25%": {NEURONS: "units=25%"},
}
CONTENDERS: dict[str, dict[str, Any]] = {
    "mipp": {"allocation": "uniform"},
    "l2": {"method": "l2", "allocation": "uniform"},
    "random": {"method": "random", "allocation": "uniform"},
    "mipp, global": {"allocation": "global"},
    "obs": {"method": "obs", "allocation": "uniform"},
    "taylor": {"method": "taylor", "allocation": "uniform"},
    "flap": {"method": "flap", "allocation": "uniform"},
    "l1": {"method": "l1", "allocation": "uniform"},
    "mipp, noise=0.1": {"allocation": "uniform", "noise": 0.1},
    "taylor, global": {"method": "taylor", "allocation": "global"},
}
"""All layers alike (``uniform``), or wherever the method loses least (``global``)."""
FEWER_DRAWS = {"obs": 2, "mipp, noise=0.1": 2, "taylor, global": 1}
"""Draws of the calibration chains, where not all seeds have one: for time."""
SWEPT = ("mipp", "l2", "random")
"""Contenders of the budgets of neurons alone, and of retraining."""
N_TEST, N_CALIBRATION, BATCH = 128, 128, 16
STEPS, STEP_BATCH, RATE = 100, 8, 2e-4
"""Of retraining: AdamW without weight decay, a tenth of warming up, then linearly to zero."""


@cache
def chains() -> tuple[list[str], list[str]]:
    """For calibration and training, and for the test."""
    return antiberty.split(N_TEST)


@cache
def net() -> nn.Module:
    """The pretrained net, never changed."""
    return antiberty.pretrained()


@cache
def test() -> list[dict[str, Tensor]]:
    """The same chains with the same masks for everybody."""
    return antiberty.batches(chains()[1], BATCH, seed=0)


def calibration(seed: int) -> list[dict[str, Tensor]]:
    """Chains and masks of one draw."""
    drawn = random.Random(seed).sample(chains()[0], N_CALIBRATION)  # noqa: S311 - no secret
    return antiberty.batches(drawn, BATCH, seed=1000 + seed)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and processor seconds."""
    started = time.process_time()
    return work(), time.process_time() - started


def unpruned() -> dict[str, Any]:
    """The net as it is, and guessing by frequency."""
    found, seconds = timed(lambda: antiberty.quality(net(), test()))
    return {"net": found, "guess": antiberty.by_frequency(test()), "test_seconds": seconds}


def pruned(contender: str, budget: str, seed: int) -> dict[str, Any]:
    """One plan: quality without and with the refit, and what it took."""
    data, options = calibration(seed), CONTENDERS[contender]
    plan, find = timed(lambda: mipp.plan(net(), data, BUDGETS[budget], seed=seed, **options))
    small, cut = timed(lambda: plan.apply(refit=False))
    none, test_seconds = timed(lambda: antiberty.quality(small, test()))
    fitted, refit = timed(lambda: plan.apply(refit=True))
    own = {} if plan.refit == mipp.Refit() else {"own refit": str(plan.refit)}
    return own | {
        "none": none,
        "refit": antiberty.quality(fitted, test()),
        "params": plan.after.params / plan.before.params,
        "macs": plan.after.macs / plan.before.macs,
        "find_seconds": find,
        "cut_seconds": cut,
        "refit_seconds": refit,
        "test_seconds": test_seconds,
        "widths": {name: len(units) for name, units in plan.keep.items()},
    }


def retrained(contender: str, refit: bool, seed: int) -> dict[str, Any]:
    """Half the neurons and a quarter of the heads gone, then the same training for everybody."""
    data, options = calibration(seed), CONTENDERS[contender]
    small = mipp.plan(net(), data, HALF, seed=seed, **options).apply(refit=refit)
    _, seconds = timed(lambda: train(small, seed))
    return {"quality": antiberty.quality(small, test()), "train_seconds": seconds}


def train(
    model: nn.Module,
    seed: int,
    steps: int = STEPS,
    take_step: Callable[[AdamW], Any] = AdamW.step,
) -> None:
    """Masked residues of the chains that are not tested on, masked anew each time.

    ``take_step`` takes each step of the optimizer, and may hold zeros.
    """
    torch.manual_seed(seed)
    draw = random.Random(seed)  # noqa: S311 - no secret
    optimizer = AdamW(model.parameters(), RATE, weight_decay=0.0)
    model.train()
    for step in range(steps):
        warm, rest = (step + 1) / (0.1 * steps), (steps - step) / (0.9 * steps)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, warm, rest)
        drawn = draw.sample(chains()[0], STEP_BATCH)
        (batch,) = antiberty.batches(drawn, STEP_BATCH, seed=10_000 * (seed + 1) + step)
        optimizer.zero_grad()
        model(**batch).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        take_step(optimizer)
    optimizer.zero_grad()
    model.eval()


def tables(rows: Rows) -> Iterator[TextTable | str]:
    """The whole net, a table for each budget, and one of retraining."""
    whole = next(r for r in rows if r["work"] == "unpruned")
    found = {name: whole[name] for name in ("net", "guess")}
    yield "\n".join(
        f"{name}: {row['nats']:.3f} nats, {100 * row['accuracy']:.1f} %"
        for name, row in found.items()
    )
    for budget, parts in BUDGETS.items():
        mine = [r for r in rows if r["work"] == "pruned" and r["budget"] == budget]
        if mine:
            yield _pruned_table(f"{budget}: {parts}", mine)
    tuned = [r for r in rows if r["work"] == "retrained"]
    if tuned:
        yield _retrained_table(f"retrained, {STEPS} steps of {STEP_BATCH}", tuned)


def _pruned_table(title: str, rows: Rows) -> TextTable:
    header = ["method", "seeds", "nats", "accuracy (%)", "nats, refit", "accuracy, refit (%)"]
    header += ["MACs left", "parameters left", "seconds to find", "to refit"]
    lines = []
    for contender in CONTENDERS:
        mine = [r for r in rows if r["contender"] == contender]
        if not mine:
            continue
        line = [contender, str(len(mine))]
        for how in ("none", "refit"):
            line.append(spread([r[how]["nats"] for r in mine], 1.0, 3))
            line.append(spread([r[how]["accuracy"] for r in mine]))
        line += [spread([sum(r[n] for r in mine) / len(mine)]) + " %" for n in ("macs", "params")]
        line += [f"{_mean(mine, name):.0f}" for name in ("find_seconds", "refit_seconds")]
        lines.append(line)
    return TextTable(title, header, lines)


def _retrained_table(title: str, rows: Rows) -> TextTable:
    lines = []
    for contender in CONTENDERS:
        for refit in (False, True):
            mine = [r for r in rows if r["contender"] == contender and r["from_refit"] == refit]
            if mine:
                nats = spread([r["quality"]["nats"] for r in mine], 1.0, 3)
                accuracy = spread([r["quality"]["accuracy"] for r in mine])
                start = "refit" if refit else "as cut"
                lines.append([contender, start, str(len(mine)), nats, accuracy])
    header = ["method", "trained from", "seeds", "nats", "accuracy (%)"]
    return TextTable(title, header, lines)


def _mean(rows: Rows, name: str) -> float:
    return sum(r[name] for r in rows) / len(rows)


def items(settings: Settings) -> Iterator[Key]:
    """What tells most comes first."""
    yield {"work": "unpruned"}
    seeds = range(settings["seeds"])
    first = [("half", name, seed) for name in SWEPT for seed in seeds[:1]]
    later = [
        ("half", name, seed)
        for seed in seeds
        for name in CONTENDERS
        if seed < FEWER_DRAWS.get(name, seed + 1)
    ]
    swept = [(budget, name, 0) for budget in BUDGETS for name in SWEPT]
    for budget, name, seed in [*first, *later]:
        yield {"work": "pruned", "budget": budget, "contender": name, "seed": seed}
    for refit in (False, True):
        for name in SWEPT:
            yield {"work": "retrained", "contender": name, "from_refit": refit, "seed": 0}
    for budget, name, seed in swept:
        yield {"work": "pruned", "budget": budget, "contender": name, "seed": seed}


def measure(key: Key, _settings: Settings) -> dict[str, Any]:
    """The whole net, one plan, or one retraining."""
    if key["work"] == "unpruned":
        return unpruned()
    if key["work"] == "retrained":
        return retrained(key["contender"], key["from_refit"], key["seed"])
    return pruned(key["contender"], key["budget"], key["seed"])


EXPERIMENT = Experiment(
    name="transformer",
    title="A pretrained transformer: half of its neurons and a quarter of its heads go",
    items=items,
    measure=measure,
    tables=tables,
    settings=SEEDS,
    threads=1,
)
