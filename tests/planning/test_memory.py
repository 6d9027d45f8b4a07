"""Memory that runs out is said with the layer that wanted it."""

import platform
import sys

import pytest
import torch
from torch import nn

import mipp
from mipp import errors
from mipp.out_of_memory import FreedMemory, give_back, resident
from mipp.tracing.lockstep import visit_in_order
from tests.blocks.nets import vectors, with_identities

TORCH = "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"
SHORT = [RuntimeError(TORCH), MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")]


@pytest.fixture
def net():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


@pytest.fixture
def batches():
    return [torch.randn(64, 4)]


def _failing(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize("error", SHORT, ids=["cpu", "python", "gpu"])
def test_while_measuring(net, batches, monkeypatch, error):
    monkeypatch.setattr("mipp.moments.Moments.update", _failing(error))
    with pytest.raises(errors.CalibrationError) as caught:
        mipp.plan(net, batches, "units=50%", noise=0.1)
    text = str(caught.value)
    assert "while measuring 2, which reads 6 features: their second moments alone take 288" in text
    assert "Lower memory= (now 4,294,967,296 bytes)" in text
    assert "method='l2'" in text
    assert caught.value.__cause__ is error


def test_while_eliminating(net, batches, monkeypatch):
    monkeypatch.setattr(mipp.Gaussian, "scorer", _failing(SHORT[0]))
    with pytest.raises(
        errors.CalibrationError, match=r"eliminating units read by 2, .* 6 features"
    ):
        mipp.plan(net, batches, "units=50%", noise=0.1)


def test_while_gathering_rows(net, batches, monkeypatch):
    monkeypatch.setattr("mipp.statistics.collect_rows", _failing(SHORT[0]))
    with pytest.raises(errors.CalibrationError, match=r"gathering rows for 2, .* memory="):
        mipp.plan(net, batches, "units=50%", noise=0.1, estimator="masked")


@pytest.mark.parametrize(
    ("broken", "where"),
    [
        (("mipp.surgery.refit.units", "LeastSquares"), "refitting 2, which reads 3 features"),
        (
            ("mipp.surgery.refit.walk", "n_positions"),
            "running all calibration examples .* 2, .* 6 features",
        ),
    ],
)
def test_while_refitting(net, batches, monkeypatch, broken, where):
    plan = mipp.plan(net, batches, "units=50%", noise=0.1)
    monkeypatch.setattr(sys.modules[broken[0]], broken[1], _failing(SHORT[0]))
    with pytest.raises(errors.SurgeryError, match=rf"{where}.*apply\(refit=False\).*memory="):
        plan.apply()
    assert plan.apply(refit=False)(batches[0]).shape == (64, 3)


@pytest.mark.parametrize(
    ("broken", "where"),
    [
        ("mipp.weights.measure", "measuring [02], which reads [46] features"),
        ("mipp.weights.curves_of", "eliminating weights of 0, which reads 4 features"),
        ("mipp.weights.in_order", "measuring [02], which reads [46] features"),
    ],
)
def test_of_single_weights(net, batches, monkeypatch, broken, where):
    method = "wanda" if broken.endswith("in_order") else "mipp"
    monkeypatch.setattr(broken, _failing(SHORT[0]))
    with pytest.raises(errors.CalibrationError, match=f"{where}.* memory="):
        mipp.plan(net, batches, "params=50%", granularity="weight", method=method)


def test_while_refitting_single_weights(net, batches, monkeypatch):
    plan = mipp.plan(net, batches, "params=50%", granularity="weight", noise=0.1)
    module = sys.modules["mipp.weights.update"]
    monkeypatch.setattr(module, "best_weights", _failing(SHORT[0]))
    with pytest.raises(errors.SurgeryError, match=r"while refitting 0, which reads 4 features"):
        plan.apply()


def test_other_errors_pass_as_they_are(net, batches, monkeypatch):
    monkeypatch.setattr("mipp.moments.Moments.update", _failing(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match=r"^a bug$"):
        mipp.plan(net, batches, "units=50%", noise=0.1)


@pytest.mark.parametrize(
    "options",
    [{"noise": 0.1}, {"method": "l2"}, {"granularity": "weight"}, {"granularity": "block"}],
    ids=["mipp", "l2", "weights", "blocks"],
)
def test_the_memory_of_a_plan_is_that_of_its_refit(monkeypatch, options):
    """Also where the plan has been written and read again."""
    given = []

    def visits(*args, **kwargs):
        given.append(args[4])
        return visit_in_order(*args, **kwargs)

    monkeypatch.setattr(sys.modules["mipp.surgery.refit.walk"], "visit_in_order", visits)
    torch.manual_seed(0)
    net, data = with_identities(), vectors()
    budget = "params=60%" if options.get("granularity") == "weight" else "units=50%"
    plan = mipp.plan(net, data, budget, memory=40_000, progress=False, **options)
    plan.apply(progress=False)
    again = type(plan).from_json(plan.to_json(), net, batches=data)
    again.apply(progress=False)
    assert len(given) >= 2
    assert set(given) == {40_000}


def _kept_in_between():
    """Pieces too small to be mapped one by one, of which those that stay hold the rest in place."""
    pieces = [bytearray(b"x" * 100_000) for _ in range(2000)]
    return pieces[::50]


glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps it")


@glibc
def test_freed_memory_goes_back_to_the_system():
    kept = _kept_in_between()
    before = resident()
    give_back()
    assert before - resident() > 100e6
    assert all(piece[-1] == ord("x") for piece in kept)


@glibc
def test_freed_memory_goes_back_when_the_process_has_grown():
    give_back()
    freed = FreedMemory(100e6)
    before = resident()
    kept = _kept_in_between()
    grown = resident()
    freed.check()
    assert grown - before > 150e6
    assert resident() - before < 50e6
    assert len(kept) == 40


def test_a_process_that_has_not_grown_is_let_alone(monkeypatch):
    monkeypatch.setattr("mipp.out_of_memory.give_back", _failing(AssertionError))
    freed = FreedMemory(1e15)
    freed.check()


@glibc
def test_batches_side_by_side_take_what_they_hold(monkeypatch):
    """Layers free more than they hold, and threads have pools of their own."""
    monkeypatch.setattr("mipp.out_of_memory.give_back", lambda: given.append(1) or give_back())
    given, highest = [], [0]

    def run(pause):
        for place in range(4):
            held = _kept_in_between()
            pause(place, holds=100_000 * len(held))
            highest[0] = max(highest[0], resident())

    give_back()
    before = resident()
    visit_in_order([run] * 6, {n: n for n in range(4)}, lambda *_: None, memory=400e6)
    assert given
    # of each, 40 pieces stay; without giving back it is 200 MB of each
    assert highest[0] - before < 500e6
