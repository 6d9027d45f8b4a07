"""Budgets of latency that are measured elsewhere than in PyTorch itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mipp
from mipp import statistics
from mipp.errors import InputError
from mipp.latency import Latency
from mipp.planning import runtimes
from mipp.planning.runtimes import Clock, Timed

X = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(16 * 64, 4))


class Converted:
    """What a runtime made of a model: it knows the multiply-accumulates, and counts its runs."""

    def __init__(self, model, *args):
        assert not model.training
        with FlopCounterMode(display=False) as counter:
            model(*args)
        self.ms, self.runs = counter.get_total_flops() / 2, 0

    def __call__(self):
        self.runs += 1


def stopwatch(works, *, seconds, fewest, device):
    """Milliseconds of converted models, and one for each layer on its own."""
    for work in works:
        work()
    return [np.full(fewest, getattr(work, "ms", 1.0)) for work in works]


@pytest.mark.parametrize("granularity", ["unit", "block"])
def test_a_function_of_the_caller_makes_what_is_timed(granularity):
    made = []

    def convert(model, *args):
        made.append(Converted(model, *args))
        return made[-1]

    model, options = net(), {}
    if granularity == "block":
        same = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        model[2], options = Residual(same), {"granularity": "block", "blocks": ["2"]}
    settings = Latency(batch=2, runtime=convert, stopwatch=stopwatch)
    plan = mipp.plan(model.train(), [X], "latency=90%", latency=settings, **options)
    assert model.training
    assert all(one.runs for one in made)
    assert plan.before.latency == made[0].ms == 2 * plan.before.macs
    assert plan.after.latency == pytest.approx(2 * plan.after.macs)
    assert plan.after.latency <= 0.9 * plan.before.latency
    assert "convert at batch size 2" in str(plan)
    assert "threads" not in plan.record.options["latency"]  # where it runs is not known


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


def test_onnxruntime_runs_what_the_model_computes():
    model = net().eval()
    example = statistics.read_batch(X[:3])
    (found,) = runtimes.ready(model, example, Latency(runtime="onnxruntime"))()
    torch.testing.assert_close(torch.from_numpy(found), model(X[:3]), rtol=1e-4, atol=1e-5)


class Several(nn.Module):
    """Tokens, a mask by keyword, and an input that nobody reads; the positions are broadcast."""

    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(10, 8), nn.Linear(8, 3)

    def forward(self, positions, tokens, unread, mask=None):
        x = self.table(tokens) + self.table(positions)
        return self.out(nn.functional.dropout(x, 0.5, self.training)) * mask[..., None]


def test_onnxruntime_takes_several_inputs_and_a_model_in_training():
    torch.manual_seed(0)
    tokens = torch.randint(10, (4, 5))
    inputs = {
        "positions": torch.arange(5)[None], "tokens": tokens, "unread": torch.zeros(4, 2),
        "mask": (tokens > 2).float(),
    }  # fmt: skip
    model = Several().train()
    settings = Latency(batch=3, runtime="onnxruntime")
    example = Clock(model, statistics.read_batch(inputs), settings).example
    found = torch.from_numpy(runtimes.ready(model, example, settings)()[0])
    assert model.training
    expected = model.eval()(**{n: x if len(x) == 1 else x[:3] for n, x in inputs.items()})
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_pass_has_as_many_examples_as_asked_for():
    given = statistics.read_batch(torch.arange(3.0)[:, None])
    for wanted, whole, expected in (
        (5, False, [0, 1, 2, 0, 1]),
        (2, False, [0, 1]),
        (2, True, [0, 1, 2]),
    ):
        clock = Clock(nn.Linear(1, 1), replace(given, whole=whole), Latency(batch=wanted))
        clock.full = Timed(1.0, 0.0)
        assert clock.example.args[0][:, 0].tolist() == expected
        assert clock.describe(clock.full)["batch"] == len(expected)


def test_a_function_may_change_what_it_gets():
    model = net().eval()
    runtimes.ready(model, statistics.read_batch(X[:1]), Latency(runtime=halved))
    assert model[0].weight.dtype == torch.float32


def halved(model, x):
    small = model.half()
    return lambda: small(x.half())


def test_blocks_are_timed_in_onnxruntime():
    same = [Residual(nn.Sequential(nn.Linear(6, 6), nn.ReLU())) for _ in range(6)]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), *same, nn.Linear(6, 2)).eval()
    outputs = []

    def shrinking(works, *, seconds, fewest, device):
        """Half of the time for whatever is timed beside the whole net."""
        assert len(works) <= 5
        outputs.extend(work()[0] for work in works)
        return [np.full(fewest, 0.5 if n else 1.0) for n in range(len(works))]

    settings = Latency(runtime="onnxruntime", stopwatch=shrinking)
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    plan = mipp.plan(model, [x], "latency=60%", latency=settings, granularity="block")
    assert (plan.before.latency, plan.after.latency) == (1.0, 0.5)
    assert len(plan.record.removed) == 1
    assert all(isinstance(found, np.ndarray) for found in outputs)


def test_a_budget_is_met_in_onnxruntime():
    ran = []

    def shrinking(works, *, seconds, fewest, device):
        """One layer takes 1 ms; the whole net 10, and every smaller one a quarter less."""
        outputs = [work() for work in works]
        if fewest > 5:
            ran.extend(outputs)
        return [np.full(fewest, 10 * 0.75**n if fewest > 5 else 1.0) for n in range(len(works))]

    settings = Latency(runtime="onnxruntime", stopwatch=shrinking)
    plan = mipp.plan(net(), [X], "latency=80%", method="l2", latency=settings)
    assert (plan.before.latency, plan.after.latency) == (10.0, 7.5)
    assert "in onnxruntime" in str(plan)
    assert ran
    assert all(isinstance(found, np.ndarray) for (found,) in ran)


def test_what_is_not_to_be_run_is_refused():
    example = statistics.read_batch(X[:1])
    with pytest.raises(InputError, match="expected a function without arguments"):
        runtimes.ready(net(), example, Latency(runtime=lambda model, x: model(x)))
    with pytest.raises(InputError, match="'torch' or 'onnxruntime' or a function"):
        Latency(runtime="tensorrt")
    away = statistics.read_batch(X[:1].to("meta"))
    with pytest.raises(InputError, match="runs models on the CPU, and this one is on meta"):
        runtimes.ready(net(), away, Latency(runtime="onnxruntime"))
