"""What counts as a batch, and what is said when something does not."""

import pytest
import torch

from mipp.errors import CalibrationError
from mipp.statistics import Batch, read_batches

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
        ({"scale": torch.tensor(2.0), "x": X}, 0, ["scale", "x"], False),
        ({"positions": torch.arange(3)[None], "x": X}, 0, ["positions", "x"], False),
    ],
)
def test_forms_of_a_batch(batches, args, kwargs, target):
    (batch,) = read_batches(batches)
    assert len(batch.args) == args
    assert list(batch.kwargs) == kwargs
    assert (batch.target is not None) == target
    assert len(batch) == 6
    assert len(batch.part(1, 3)) == len(batch.at(torch.tensor([5, 0]))) == 2


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


# ---- batches that are cut and batches that stay whole

NODES = {"x": torch.randn(9, 3), "edges": torch.zeros(2, 12, dtype=torch.long)}


def test_a_batch_is_cut_into_parts():
    (batch,) = read_batches([((X, X), Y)])
    assert batch.divisible
    assert [len(part) for part in batch.parts(4)] == [4, 2]
    assert torch.equal(torch.cat([part.target for part in batch.parts(4)]), Y)
    assert torch.equal(batch.part(1, 3).args[1], X[1:3])


@pytest.mark.parametrize(
    "batch",
    [
        Batch((), NODES),
        Batch((torch.randn(4, 5, 3), torch.zeros(1, 4, 3))),
        Batch((X,), whole=True),
        Batch((X, torch.eye(6).to_sparse())),
    ],
)
def test_what_is_not_all_examples_along_dimension_0_stays_whole(batch):
    assert not batch.divisible
    assert batch.part(0, 1) is batch
    assert batch.parts(1) == [batch]
    assert not batch.to(torch.device("cpu")).divisible


def test_graphs_of_several_sizes_are_read():
    other = {"x": torch.randn(5, 3), "edges": torch.zeros(2, 7, dtype=torch.long)}
    assert [len(batch) for batch in read_batches([NODES, other])] == [9, 5]


@pytest.mark.parametrize(
    "other",
    [
        {"x": torch.randn(5, 4), "edges": NODES["edges"]},
        {"x": torch.randn(5, 3), "edges": NODES["edges"].int()},
        {"x": torch.randn(5, 3), "edges": NODES["edges"][0]},
    ],
)
def test_graphs_of_other_features_dtypes_or_dimensions_are_refused(other):
    with pytest.raises(CalibrationError, match="Batch 1 has inputs"):
        read_batches([NODES, other])


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
def test_sparse_inputs_are_checked_for_nan():
    broken = torch.eye(6).mul(torch.nan).to_sparse()
    with pytest.raises(CalibrationError, match="Batch 0 has NaN"):
        read_batches([((X, broken), Y)])
    for sparse in (torch.eye(6).to_sparse(), torch.eye(6).to_sparse_csr()):
        assert len(read_batches([((X, sparse), Y)])) == 1
