"""A plan as data: what it says survives JSON exactly, and damage is refused."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mipp.errors import FileError, InputError
from mipp.records import Cost, GroupSummary, Refusal
from mipp.surgery.keeps import AxisKeep, axis_keeps, fingerprint, kept_indices, kept_of
from mipp.surgery.record import PlanRecord, installed_version
from mipp.surgery.slice import apply_plan, slice_model
from mipp.surgery.tensors import state_shapes

from .hand_built import CASES


def plan_for(case):
    kept = kept_indices(case.graph, case.keep)
    return PlanRecord(
        keep={
            g.name: tuple(np.flatnonzero(case.keep[g.index]).tolist()) for g in case.graph.groups
        },
        axes=axis_keeps(case.graph, kept),
        refused=(Refusal("stem", 64, "no rule for aten.fft (net.py:3)"),),
        summary=(
            GroupSummary("fc1", 10, 5, 2.5, 2.25, 100.0, 50.0, 1000, 500),
            GroupSummary("conv2", 8, 4, math.nan, math.nan, 200.5, 80.0, 300, 200),
        ),
        before=Cost(1000.0, 4000, 24),
        after=Cost(400.0, 1000, 12),
        options={"method": "mipp", "budget": ["macs=50%"], "seed": 0, "noise": 0.1, "stop": None},
        fingerprint=fingerprint(state_shapes(case.model)),
        mipp_version=installed_version(),
    )


def test_round_trip_is_exact():
    plan = plan_for(CASES["lenet"]())
    text = plan.to_json()
    again = PlanRecord.from_json(text)
    assert again.to_json() == text
    # NaN is not equal to itself
    assert math.isnan(again.summary[1].nats_before)
    assert replace(again, summary=plan.summary) == plan
    assert "NaN" not in text
    assert json.loads(text)["summary"][1]["nats_before"] is None


@given(
    size=st.integers(1, 30),
    chosen=st.sets(st.integers(0, 29), min_size=1),
    nats=st.floats(allow_nan=False, allow_infinity=False),
    option=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.floats(-1e9, 1e9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    ),
)
def test_round_trip_of_any_content(size, chosen, nats, option):
    kept = tuple(sorted(index % size for index in chosen))
    kept = tuple(sorted(set(kept)))
    plan = PlanRecord(
        keep={"a": kept},
        axes=(AxisKeep("a.weight", 1, size, kept),),
        refused=(),
        summary=(GroupSummary("a", size, len(kept), nats, math.nan, 1.0, 0.5, 2, 1),),
        before=Cost(nats, 2, 2),
        after=Cost(0.0, 1, 1),
        options={"any": option},
        fingerprint="0" * 64,
        mipp_version="1",
    )
    again = PlanRecord.from_json(plan.to_json())
    assert again.to_json() == plan.to_json()
    assert again.options == plan.options
    assert again.summary[0].nats_before == nats


def test_plan_applies_without_its_graph():
    case = CASES["lenet"]()
    plan = PlanRecord.from_json(plan_for(case).to_json())
    small = apply_plan(case.model, plan)
    expected = slice_model(case.model, kept_indices(case.graph, case.keep))
    assert torch.equal(small(*case.inputs), expected(*case.inputs))
    assert {key: list(one) for key, one in kept_of(plan.axes).items()} == {
        key: list(one) for key, one in plan.kept().items()
    }


def test_plan_for_another_model():
    plan = plan_for(CASES["lenet"]())
    with pytest.raises(InputError, match=r"plan was made for another model.*got Mixed with"):
        apply_plan(CASES["mixed"]().model, plan)
    small = apply_plan(CASES["lenet"]().model, plan)
    with pytest.raises(InputError, match="before anything was removed"):
        apply_plan(small, plan)


def test_fingerprint_sees_names_and_shapes_but_neither_order_nor_number_type():
    shapes = {"a": (2, 3), "b": (4,)}
    assert fingerprint(shapes) == fingerprint(dict(reversed(shapes.items())))
    assert len({fingerprint(one) for one in (
        shapes, {"a": (3, 2), "b": (4,)}, {"a": (2, 3), "c": (4,)}, {"a": (2, 3)}, {}
    )}) == 5  # fmt: skip
    model = CASES["lenet"]().model
    before = fingerprint(state_shapes(model))
    assert fingerprint(state_shapes(model.bfloat16())) == before


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: c.pop("keep"), "keep: Field required"),
        (lambda c: c.update(more=1), "fields that a plan does not have"),
        (lambda c: c["summary"][0].update(more=1), "fields that a plan does not have"),
        (lambda c: c.update(format=2), "expected format 1, got 2"),
        (lambda c: c.pop("format"), "expected format 1, got None"),
        (lambda c: c["keep"].update(fc1=[]), "group 'fc1': expected one or more rising"),
        (lambda c: c["keep"].update(fc1=[2, 1]), "group 'fc1': expected one or more rising"),
        (lambda c: c["keep"].update(fc1=["1"]), "keep.fc1.0: Input should be a valid integer"),
        (lambda c: c["keep"].update(fc1=[-1]), "group 'fc1'"),
        (lambda c: c["axes"][0].update(kept=[99]), "rising indices below"),
        (lambda c: c["axes"][0].update(kept=[]), "rising indices below"),
        (lambda c: c["axes"][0].update(dim=-1), "counted from 0"),
        (lambda c: c["before"].update(params=1.5), "before.params"),
        (lambda c: c["summary"][0].update(macs_before=None), "summary.0.macs_before"),
        (lambda c: c.update(summary=3), "summary"),
        (lambda c: c.update(summary=[3]), "summary.0"),
        (lambda c: c.update(fingerprint=None), "fingerprint: Input should be a valid string"),
    ],
)
def test_damaged_content(change, text):
    content = json.loads(plan_for(CASES["lenet"]()).to_json())
    change(content)
    with pytest.raises(FileError, match=text):
        PlanRecord.from_json(json.dumps(content))


def test_every_truncation_is_refused():
    text = plan_for(CASES["tied"]()).to_json()
    for left in range(0, len(text), 7):
        with pytest.raises(FileError, match="not a plan"):
            PlanRecord.from_json(text[:left])
    with pytest.raises(FileError, match="got None"):
        PlanRecord.from_json("[]")


@pytest.mark.parametrize("value", [math.inf, {1, 2}])
def test_what_json_cannot_hold(value):
    plan = replace(plan_for(CASES["lenet"]()), options={"noise": value})
    with pytest.raises(InputError, match="holds what JSON cannot"):
        plan.to_json()


def test_describe():
    assert plan_for(CASES["lenet"]()).describe() == [
        "fc1       10 ->     5 units, 90.0% of 2.5 nats",
        "conv2      8 ->     4 units",
        "units: 24 -> 12 (50.0% left)",
        "params: 4,000 -> 1,000 (25.0% left)",
        "MACs: 1,000 -> 400 (40.0% left)",
        "refused: stem (64 units): no rule for aten.fft (net.py:3)",
    ]
