"""Budgets of latency that are measured elsewhere than in PyTorch itself."""

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


@pytest.mark.parametrize("options", [{}, {"granularity": "block", "blocks": ["2"]}])
def test_a_function_of_the_caller_makes_what_is_timed(options):
    made = []

    def convert(model, *args):
        made.append(Converted(model, *args))
        return made[-1]

    model = net()
    model.append(nn.Identity())
    if options:
        same = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        model[2], options["blocks"] = Residual(same), ["2"]
    settings = Latency(batch=2, runtime=convert, stopwatch=stopwatch)
    plan = mipp.plan(model.train(), [X], "latency=90%", latency=settings, **options)
    assert model.training
    assert all(one.runs for one in made)
    assert plan.before.latency == made[0].ms == 2 * plan.before.macs
    assert plan.after.latency == pytest.approx(2 * plan.after.macs)
    assert plan.after.latency <= 0.9 * plan.before.latency
    assert "at batch size 2 in convert" in str(plan)


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
