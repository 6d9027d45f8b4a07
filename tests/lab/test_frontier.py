"""Times of pruned nets beside the whole one, from records of widths."""

import numpy as np
import pytest

from lab import wide_nets
from lab.experiments import frontier
from mipp import models
from mipp.errors import InputError

KEY = {"net": "resnet20/cifar10", "threads": 1, "batch": 1, "clock": "cpu"}


@pytest.fixture
def recorded(monkeypatch):
    net = models.build("resnet20", width=0.5, seed=0).eval()
    monkeypatch.setattr(wide_nets, "fresh", lambda *_args: net)
    monkeypatch.setattr(frontier, "METHODS", {"mipp": "MIPP", "l2": "L2"})
    monkeypatch.setattr(frontier, "SHARES", ("macs=50%", "macs=15%"))
    options = {"method": "l2", "progress": False}
    x = [frontier.torch.randn(2, 3, 32, 32)]
    widths = {
        budget: {
            n: after
            for n, (_, after) in frontier.mipp.plan(net, x, budget, **options).widths.items()
        }
        for budget in frontier.SHARES
    }
    row = {b: {"widths": widths[b], "refit": {"test": 0.8}} for b in frontier.SHARES}
    found = {method: row | {"unpruned": {"test": 0.9}} for method in frontier.METHODS}
    monkeypatch.setattr(frontier, "_records", lambda _net: found)


@pytest.mark.parametrize("runtime", frontier.RUNTIMES)
@pytest.mark.filterwarnings("ignore:2 examples")
def test_the_smaller_net_takes_the_smaller_share(recorded, runtime, monkeypatch):
    sizes, real = {}, frontier._work

    def work(model, *place):
        run = real(model, *place)
        sizes[run] = sum(p.numel() for p in model.parameters())
        return run

    def by_size(works, *, seconds, fewest, device):
        for run in works:
            run()
        return [np.full(fewest, float(sizes[run])) for run in works]

    monkeypatch.setattr(frontier, "_work", work)
    monkeypatch.setattr(frontier, "processor_time", by_size)
    found = frontier.measure(
        KEY | {"part": "times", "runtime": runtime, "batch": 8}, {"seconds": 0.3}
    )
    ratios = found["ratios"]
    assert len(ratios) == 4
    assert ratios["mipp, macs=15%"] < ratios["mipp, macs=50%"] < 1
    row = KEY | {"part": "times", "runtime": runtime} | found
    table = next(iter(frontier.tables([row])))
    assert table.rows[0][:2] == ["mipp, macs=50%", "80.0"]


def test_without_records_it_says_what_to_run_first(monkeypatch, tmp_path):
    monkeypatch.setattr(frontier, "RECORDS", tmp_path)
    frontier._records.cache_clear()
    with pytest.raises(InputError, match="python -m lab run full-width --nets resnet20"):
        frontier._records("resnet20/cifar10")
