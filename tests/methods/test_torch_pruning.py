"""The same order of units as Torch-Pruning gives, with the options that make both compute the same.

Torch-Pruning's own defaults sum over more: the weights that read the unit and the BatchNorm between
(``group_reduction="mean"``), and it takes no root of squares. ``group_reduction="first"`` is the
layer that makes the unit alone, as here. Its Taylor score is |w g| of one gradient.
"""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mipp.methods import L1, L2, BNScale, Taylor
from mipp.statistics import read_batches

from .nets import jitter_norms, question

tp = pytest.importorskip("torch_pruning")
importance = tp.pruner.importance

FIRST = {"group_reduction": "first", "normalizer": None}


def small_vgg():
    torch.manual_seed(5)
    return jitter_norms(nn.Sequential(
        nn.Conv2d(2, 9, 3, padding=1, bias=False), nn.BatchNorm2d(9), nn.ReLU(),
        nn.Conv2d(9, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 10, 1), nn.BatchNorm2d(10), nn.ReLU(), nn.Flatten(),
        nn.Linear(40, 11), nn.ReLU(), nn.Linear(11, 3),
    )).eval()  # fmt: skip


def examples():
    generator = torch.Generator().manual_seed(6)
    return torch.randn(32, 2, 4, 4, generator=generator), torch.arange(32) % 3


def theirs(model, scorer, roots):
    """Their scores by the name of the layer that makes the units."""
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=examples()[0][:2])
    scores = {}
    for name in roots:
        layer = model.get_submodule(name)
        prune = (
            tp.prune_conv_out_channels if isinstance(layer, nn.Conv2d)
            else tp.prune_linear_out_channels
        )  # fmt: skip
        n_units = layer.weight.shape[0]
        found = scorer(graph.get_pruning_group(layer, prune, idxs=list(range(n_units))))
        if found is not None:
            scores[name] = found.detach().numpy()
    return scores


def assert_same_scores_and_order(model, method, scorer, power=1):
    asked = question(model, read_batches([examples()]))
    scores = method.score(asked)
    assert len(scores) >= 3
    names = {g.index: g.name for g in asked.graph.groups}
    expected = theirs(model, scorer, names.values())
    assert set(expected) == {names[index] for index in scores}
    for index, values in scores.items():
        found = expected[names[index]]
        np.testing.assert_allclose(values**power, found, rtol=1e-4, atol=1e-6 * found.max())
        assert values.argsort().tolist() == found.argsort().tolist()


@pytest.mark.parametrize(("method", "p"), [(L1(), 1), (L2(), 2)])
def test_norms_rank_units_the_same(method, p):
    assert_same_scores_and_order(
        small_vgg(), method, importance.GroupMagnitudeImportance(p=p, **FIRST), power=p
    )


def test_divided_by_the_mean_of_the_layer_norms_are_the_same_between_layers_too():
    scorer = importance.GroupMagnitudeImportance(p=1, group_reduction="first", normalizer="mean")
    assert_same_scores_and_order(small_vgg(), L1(normalise="mean"), scorer)


def test_scales_of_batchnorms_rank_units_the_same_and_both_leave_out_layers_without():
    assert_same_scores_and_order(
        small_vgg(), BNScale(), importance.BNScaleImportance(normalizer=None)
    )


@pytest.mark.parametrize(("variant", "multivariable", "power"),
                         [("absolute", False, 1), ("joint", True, 0.5)])  # fmt: skip
def test_first_order_changes_rank_units_the_same(variant, multivariable, power):
    model = small_vgg()
    x, y = examples()
    cross_entropy(model(x), y).backward()
    scorer = importance.GroupTaylorImportance(multivariable=multivariable, **FIRST)
    assert_same_scores_and_order(model, Taylor(variant=variant, minibatch=32), scorer, power=power)


def test_their_default_sums_over_more_and_is_another_order():
    """So that the option above is seen to matter."""
    model = small_vgg()
    default = theirs(model, importance.GroupMagnitudeImportance(p=2), ["3"])["3"]
    first = theirs(model, importance.GroupMagnitudeImportance(p=2, **FIRST), ["3"])["3"]
    assert default.argsort().tolist() != first.argsort().tolist()
