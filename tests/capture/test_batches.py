"""What counts as a batch, and what is said when something does not."""

import pytest
import torch

from mipp.capture import read_batches
from mipp.errors import CalibrationError

X, Y = torch.randn(6, 3), torch.arange(6)


@pytest.mark.parametrize(
    ("batches", "args", "kwargs", "target"),
    [
        ([X], 1, [], False),
        (X, 1, [], False),
        ([(X, Y)], 1, [], True),
        ((X, Y), 1, [], True),
        ([((X, X), Y)], 2, [], True),
        ([{"x": X, "labels": Y}], 0, ["x", "labels"], True),
        ({"x": X}, 0, ["x"], False),
        ([({"x": X}, Y)], 0, ["x"], True),
        ([[X]], 1, [], False),
        (iter([X]), 1, [], False),
    ],
)
def test_forms_of_a_batch(batches, args, kwargs, target):
    (batch,) = read_batches(batches)
    assert len(batch.args) == args
    assert list(batch.kwargs) == kwargs
    assert (batch.target is not None) == target
    assert len(batch) == 6


def test_only_so_many_examples_are_read():
    read = read_batches(((X, Y) for _ in range(1000)), samples=14)
    assert [len(batch) for batch in read] == [6, 6, 2]
    assert [len(batch.target) for batch in read] == [6, 6, 2]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "empty: not one example"),
        (3, "batches is a int; expected an iterable"),
        ([3], "A batch is a int; expected a tensor"),
        ([(X, Y, X)], r"A batch is a tuple of 3.*\(\(first, second\), target\)"),
        ([torch.tensor(1.0)], "no tensor with a batch dimension"),
        ([torch.full((2, 2), torch.nan)], "Batch 0 has NaN or infinite values"),
        ([X, torch.full((2, 3), torch.inf)], "Batch 1 has NaN or infinite values"),
        ([X, torch.randn(6, 4)], r"Batch 1 has inputs \(4,\) float32 .* the first batch \(3,\)"),
        ([X, X.double()], "float64 an example, the first batch .* float32"),
    ],
)
def test_what_cannot_be_read_is_said(batches, message):
    with pytest.raises(CalibrationError, match=message):
        read_batches(batches)
