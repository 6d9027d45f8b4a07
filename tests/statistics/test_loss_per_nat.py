"""From nats as measured to nats of the loss: errors on rows that a regression has not seen."""

import numpy as np
import pytest
import torch
from torch import nn

import mipp
from mipp.statistics import LossPerNat


def test_the_factor_is_how_much_larger_squared_errors_are_on_other_rows():
    draw = np.random.default_rng(0)
    rows, features, within, beyond = 60, 15, 0.0, 0.0
    for _ in range(400):
        truth = draw.normal(size=features)
        x, new = draw.normal(size=(2, rows, features))
        y, unseen = x @ truth + draw.normal(size=rows), new @ truth + draw.normal(size=rows)
        found = np.linalg.lstsq(x, y, rcond=None)[0]
        within += np.square(y - x @ found).sum()
        beyond += np.square(unseen - new @ found).sum()
    assert LossPerNat(rows=rows)(features) == pytest.approx(beyond / within, rel=0.05)


def test_held_out_rows_need_no_factor_and_few_rows_have_a_largest():
    assert LossPerNat(design_effect=2.0)(1_000) == 2.0
    assert LossPerNat(rows=10)(1_000) == pytest.approx(4.0)


def test_a_plan_tells_of_errors_on_other_rows_than_few_that_it_learned_from():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 3)).eval()

    def lost(rows: int, seed: int) -> float:
        config = mipp.CaptureConfig(rows_per_feature=1e-9, min_rows=rows)
        x = torch.randn(4_000, 20, generator=torch.Generator().manual_seed(seed))
        plan = mipp.plan(net, [x], "units=50%", calibration=config, seed=seed, progress=False)
        (group,) = plan.record.summary
        return group.nats_before - group.nats_after

    # a quarter as many features as rows: errors on them are 3/4 of those with all rows, and those
    # on other rows 5/4
    assert np.mean([lost(80, seed) for seed in range(5)]) > 0.9 * lost(4_000, 0)
