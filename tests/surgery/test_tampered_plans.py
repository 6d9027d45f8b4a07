"""A plan whose text was changed is refused, or is a plan that works."""

import contextlib
import json
import random

import pytest
import torch
from torch import nn

import mipp
from mipp import errors
from tests.blocks.nets import stacked

NOISE = 0.1
OTHERS = (None, True, -1, 0, 3, 10**30, 0.5, -0.5, "", "x", "own", "latency", [], [1], {}, {"x": 1})


KINDS = ("units", "collapsed", "weights", "own weights", "blocks")


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))


@pytest.fixture(scope="module")
def texts(net):
    """Plans as text: of units, with a latency that was measured, of weights and of blocks."""
    batches = [torch.randn(64, 6)]
    units = mipp.plan(net, batches, "units=50%", noise=NOISE)
    empty = mipp.plan(net, batches, "units=2", method="l2", min_units=0)
    weights = mipp.plan(net, batches, "params=50%", noise=NOISE, granularity="weight")
    own = mipp.plan(net, batches, "params=50%", granularity="weight", method="wanda", refit="own")
    blocks = mipp.plan(stacked(3), batches, "units=50%", granularity="block")
    return {
        "units": units.to_json(),
        "collapsed": empty.to_json(),
        "weights": weights.to_json(),
        "own weights": own.to_json(),
        "blocks": blocks.to_json(),
    }


def _type(kind):
    if kind == "blocks":
        return mipp.BlockPlan
    return mipp.WeightPlan if "weights" in kind else mipp.Plan


def _net(kind, net):
    return stacked(3) if kind == "blocks" else net


def _places(value, path=()):
    """Every place in JSON data, containers included, as the keys that lead to it."""
    if path:
        yield path
    if isinstance(value, dict | list):
        keys = value if isinstance(value, dict) else range(len(value))
        for key in list(keys):
            yield from _places(value[key], (*path, key))


def _changed(text, rng):
    """The text with one change: a character, a value, a field too many or too few."""
    if rng.random() < 0.2:
        at = rng.randrange(len(text))
        put = rng.choice(["", "x", "9", "-", '"', "{", ",", "null", "1e999"])
        return text[:at] + put + text[at + rng.randrange(3) :]
    content = json.loads(text)
    path = rng.choice(list(_places(content)))
    inside = content
    for key in path[:-1]:
        inside = inside[key]
    what = rng.random()
    if what < 0.15:
        del inside[path[-1]]
    elif what < 0.3 and isinstance(inside, dict):
        inside["added"] = rng.choice(OTHERS)
    elif what < 0.4 and isinstance(inside[path[-1]], list) and inside[path[-1]]:
        inside[path[-1]] = inside[path[-1]] * 2
    else:
        inside[path[-1]] = rng.choice(OTHERS)
    return json.dumps(content)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_a_changed_plan_is_refused_unless_it_says_the_same(net, texts, kind, seed):
    rng = random.Random(seed)
    text = texts[kind]
    refused = 0
    for _ in range(100):
        changed = _changed(text, rng)
        try:
            plan = _type(kind).from_json(changed, _net(kind, net))
        except errors.FileError:
            refused += 1
            continue
        # a space, a value put in place of itself, or no digest
        assert plan.to_json() == text
        assert plan.apply(refit=False)(torch.zeros(2, 6)).shape == (2, 3)
    assert refused > 80


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_a_plan_without_digest_is_refused_or_can_be_shown(net, texts, kind, seed):
    content = json.loads(texts[kind])
    del content["digest"]
    text, rng = json.dumps(content), random.Random(seed)
    refused = 0
    for _ in range(100):
        try:
            plan = _type(kind).from_json(_changed(text, rng), _net(kind, net))
        except (errors.FileError, errors.InputError):
            refused += 1
            continue
        assert str(plan)
        assert plan.to_json()
        with contextlib.suppress(mipp.MippError):
            plan.apply(refit=False)
    assert refused > 30


@pytest.mark.parametrize("kind", ["units", "weights"])
@pytest.mark.parametrize(
    "refit", [{"mode": "sequential", "power": 2}, {"ridge": "x"}, {"mode": "often"}, "often", 3]
)
def test_refit_options_that_do_not_exist_are_said(texts, kind, refit):
    content = json.loads(texts[kind])
    content["options"]["refit"] = refit
    del content["digest"]
    with pytest.raises(errors.FileError, match=r"(?s)damaged plan: its refit.*Make the plan"):
        _type(kind).from_json(json.dumps(content))
