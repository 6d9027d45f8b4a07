"""How often units that tell nothing pass the stop rule `mipp.Confidence`, and useful ones do.

    python -m lab run confidence    # some minutes on one core

Samples of known truth: three useful units beside four that tell nothing (``normal``, 300 rows), two
bits and their XOR beside four useless bits (``xor``, 1000 rows), and three useful units beside four
noisy copies of them, which tell nothing that the three do not (``copies``, 1000 rows). Every unit
is tested with no other removed. ``masked, masking alone`` is `mipp.Masked` without the control by
exchanged rows, as an ablation.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from lab.experiment import Experiment, Key, Rows, Settings
from lab.tables import TextTable
from mipp.information import Observations, get
from mipp.information.learned.learned_scorer import LearnedScorer
from mipp.records import FloatArray, Scorer
from mipp.selection import surely_positive

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
ALONE = "masked, masking alone"
ESTIMATORS = ("gaussian", "masked", ALONE, "mlp")


def normal(seed: int) -> Observations:
    """Y = w X + noise of unit variance; unit u transfers 1/2 log(1 + w_u^2) nats to it."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(300, 7, generator=generator).double()
    weights = torch.tensor([0.1, 0.2, 1.0, 0.0, 0.0, 0.0, 0.0]).double()
    y = x @ weights + torch.randn(300, generator=generator)
    return Observations(x, y.unsqueeze(1), torch.arange(7))


def xor(seed: int) -> Observations:
    """Fair bits; the label is whether the first two differ."""
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(2, (1000, 6), generator=generator)
    return Observations(bits.float(), bits[:, 0] ^ bits[:, 1], torch.arange(6))


def copies(seed: int) -> Observations:
    """Of three useful units, the first two twice more with noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1000, 3, generator=generator).double()
    noisy = x[:, [0, 0, 1, 1]] + 0.7 * torch.randn(1000, 4, generator=generator)
    y = x @ torch.tensor([1.0, 0.7, 0.4]).double() + 0.5 * torch.randn(1000, generator=generator)
    return Observations(torch.cat([x, noisy], 1), y.unsqueeze(1), torch.arange(7))


FAMILIES: dict[str, tuple[Callable[[int], Observations], int]] = {
    "normal": (normal, 3), "xor": (xor, 2), "copies": (copies, 3)
}  # fmt: skip
"""How a sample is drawn, and how many units are useful: they come first."""


def _estimates(estimator: str, scorer: Scorer, unit: int) -> FloatArray:
    if estimator == ALONE:
        assert isinstance(scorer, LearnedScorer)
        return LearnedScorer.estimates(scorer, unit)
    return scorer.estimates(unit)


def measure(key: Key, settings: Settings) -> dict[str, Any]:
    """Confidence that each unit transfers entropy, shape (repetitions, units)."""
    draw, _ = FAMILIES[key["family"]]
    estimator = get(key["estimator"].split(",")[0])
    found = []
    for seed in range(settings["repetitions"]):
        view = draw(seed)
        units = len(view.unit)
        scorer = estimator.scorer([view], units, seed)
        sure = [surely_positive(_estimates(key["estimator"], scorer, u).sum(1))
                for u in range(units)]  # fmt: skip
        found.append([round(value, 4) for value in sure])
    return {"sure": found}


def tables(rows: Rows) -> Iterator[TextTable]:
    """Percent of the units that stay, useless ones and each of the useful ones."""
    lines = []
    for row in rows:
        useful = FAMILIES[row["family"]][1]
        sure = np.array(row["sure"])
        useless = sure[:, useful:]
        stays = 100 * (sure[:, :useful] > 0.95).mean(0)
        lines.append([
            row["family"], row["estimator"], str(useless.size),
            *(f"{100 * (useless > level).mean():.1f}" for level in LEVELS),
            ", ".join(f"{share:.0f}" for share in stays),
        ])  # fmt: skip
    header = ["family", "estimator", "useless units", *(f"at {level:g}" for level in LEVELS),
              "useful ones at 0.95"]  # fmt: skip
    yield TextTable("Units that stay, in percent", header, lines)


def items(settings: Settings) -> Iterator[Key]:
    """All estimators on all families."""
    shared = {"repetitions": settings["repetitions"]}
    for estimator in ESTIMATORS:
        yield from ({"family": family, "estimator": estimator} | shared for family in FAMILIES)


EXPERIMENT = Experiment(
    name="confidence",
    title="How often useless units pass the stop rule by confidence",
    items=items,
    measure=measure,
    tables=tables,
    settings={"repetitions": 60},
    threads=1,
)
