"""BN scale: which factors are read, what has none, and what is refused."""

import numpy as np
import pytest
import torch
from torch import nn

import mipp
from mipp import errors
from mipp.methods import BNScale

from .nets import Normed, data, jitter_norms, plain, question


class TwoNorms(nn.Module):
    """A stream that two BatchNorms make."""

    def __init__(self):
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.inner, self.norm2 = nn.Conv2d(5, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        x = self.norm1(self.first(x)).relu()
        return self.head((x + self.norm2(self.inner(x)).relu()).mean((2, 3)))


def absolute(norm):
    return norm.weight.detach().abs().double().numpy()


def test_scores_are_absolute_factors_and_their_mean_where_a_unit_has_several():
    model = jitter_norms(TwoNorms())
    with torch.no_grad():
        model.norm1.weight[2] = -3.0
    scores = BNScale().score(question(model))
    expected = (absolute(model.norm1) + absolute(model.norm2)) / 2
    np.testing.assert_allclose(scores[0], expected)
    assert scores[0].argmax() == 2


def test_factors_of_different_layers_are_compared_with_one_threshold():
    model = jitter_norms(Normed())
    with torch.no_grad():
        model.norm1.weight.copy_(torch.tensor([0.1, 2.0, 2.1, 2.2, 2.3]))
        model.norm2.weight.copy_(torch.tensor([0.2, 0.3, 3.0, -0.4, 3.1, 3.2, 3.3]))
    plan = mipp.plan(model, data(dtype=torch.float32), "units=8", method="bnscale")
    assert plan.keep == {"first": (1, 2, 3, 4), "inner": (2, 4, 5, 6)}


def test_groups_without_a_batchnorm_keep_all_units():
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 2), nn.ReLU(),
        nn.Flatten(), nn.Linear(5, 3),
    )  # fmt: skip
    jitter_norms(model)
    plan = mipp.plan(model, data(dtype=torch.float32), "units=8", method="bnscale")
    assert plan.keep["3"] == (0, 1, 2, 3, 4)
    assert len(plan.keep["0"]) == 3
    several = mipp.planning.plans(model, data(dtype=torch.float32), ["units=8"], method="bnscale")
    assert several[0].keep == plan.keep
    with pytest.raises(errors.InputError, match=r"wants 4 of the 5 units of 3, .* scores only 0"):
        mipp.plan(model, data(dtype=torch.float32), widths={"3": 4}, method="bnscale")


def test_nets_without_batchnorms_and_with_equal_factors_are_refused():
    with pytest.raises(errors.InputError, match="it has no BatchNorm with factors on units"):
        BNScale().score(question(plain()))
    with pytest.raises(errors.InputError, match="are the same: train it first"):
        BNScale().score(question(Normed()))
    bare = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6, affine=False), nn.ReLU(), nn.Flatten(),
        nn.Linear(24, 3),
    )  # fmt: skip
    with pytest.raises(errors.InputError, match="it has no BatchNorm with factors on units"):
        BNScale().score(question(bare))


def test_later_rounds_may_have_equal_factors_left():
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)
    )
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.1, 0.2, 3.0, 0.3, 0.4, 3.0]))
    batches = data(dtype=torch.float32)
    plan = mipp.plan(model, batches, "units=2", method=BNScale(rounds=4))
    assert plan.keep == {"0": (2, 5)}
    assert mipp.plan(model, batches, "units=1", method=BNScale(rounds=4)).keep == {"0": (5,)}
