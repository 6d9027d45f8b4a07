"""Which examples are drawn."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from mipp import methods
from mipp.methods.shared.samples import drawn
from mipp.statistics import read_batches

from .nets import data, plain, question


def asked(batches=None, **others):
    return question(plain().double(), batches or data(), **others)


def firsts(batches):
    return torch.cat([batch.args[0][:, 0, 0, 0] for batch in batches]).tolist()


def test_so_many_are_drawn_none_twice_and_each_with_its_own_label():
    found = drawn(asked(), 30, 12)
    assert [len(batch) for batch in found] == [10, 10, 10]
    label_of = {
        x[0, 0, 0].item(): y.item() for b in data() for x, y in zip(*b.args, b.target, strict=True)
    }
    assert len(set(firsts(found))) == 30
    for batch in found:
        for x, y in zip(batch.args[0], batch.target, strict=True):
            assert label_of[x[0, 0, 0].item()] == y.item()


@pytest.mark.parametrize("examples", [None, 48, 1000])
def test_all_are_taken_where_there_are_no_more(examples):
    assert sorted(firsts(drawn(asked(), examples, 20))) == sorted(firsts(data()))


def test_the_seed_and_the_round_decide():
    one = asked(seed=3)
    assert firsts(drawn(one, 9, 9)) == firsts(drawn(asked(seed=3), 9, 9))
    assert firsts(drawn(one, 9, 9)) != firsts(drawn(asked(seed=4), 9, 9))
    assert firsts(drawn(one, 9, 9)) != firsts(drawn(replace(one, round=2), 9, 9))


def test_so_many_of_each_class_or_what_there_is():
    found = drawn(asked(), 1, 100, per_class=4)
    assert torch.bincount(torch.cat([b.target for b in found])).tolist() == [4, 4, 4]
    (rest,) = drawn(asked(), 1, 100, per_class=400)
    assert len(rest) == 48


@pytest.mark.parametrize("target", [torch.zeros(8, 3), torch.zeros(8, 2, dtype=torch.long), None])
def test_targets_that_are_no_class_numbers_are_drawn_as_they_come(target):
    x = torch.randn(8, 2, 4, 4, dtype=torch.float64)
    batches = read_batches([(x, target)])
    (found,) = drawn(asked(batches), 5, 100, per_class=1)
    assert len(found) == 5


def test_keywords_and_what_has_no_batch_dimension_come_along():
    def batch(start):
        rows = torch.arange(start, start + 4.0)
        return {"x": rows[:, None], "scale": torch.tensor(2.0), "labels": rows.long()}

    one = replace(asked(), batches=read_batches([batch(0), batch(4)]))
    (found,) = drawn(one, 5, 10)
    assert found.kwargs["scale"] == 2.0
    assert found.kwargs["x"].flatten().tolist() == found.target.tolist()
    assert len(found) == 5


SCORING = [name for name in methods.names() if name != "mipp" and name not in ("dhspg", "oto")]
SAMPLING = [
    name for name in SCORING if "examples" in {field.name for field in fields(methods.get(name))}
]


@pytest.mark.parametrize("name", SAMPLING)
def test_methods_look_at_as_many_examples_as_they_are_told_and_at_no_others(name):
    method = replace(methods.get(name), examples=12)
    if hasattr(method, "per_class"):
        method = replace(method, per_class=None)
    model = plain().double()
    chosen = drawn(question(model), 12, 48)
    kept = set(firsts(chosen))
    x, y = torch.cat([b.args[0] for b in data()]), torch.cat([b.target for b in data()])
    others = torch.tensor([value not in kept for value in x[:, 0, 0, 0].tolist()])
    changed = x.clone()
    changed[others] *= 5
    first, same = (
        method.score(question(model, read_batches([(inputs, y)])))[0] for inputs in (x, changed)
    )
    np.testing.assert_array_equal(first, same)
    every = replace(method, examples=48).score(question(model, read_batches([(changed, y)])))[0]
    assert not np.allclose(every, first)
