"""Deeper nets that start as a shallower one."""

import os

import pytest
import torch

from lab import wide_nets
from lab.deepened import deepen
from lab.wide_nets import NETS
from mipp import models


def test_the_deeper_net_computes_the_same_and_learns():
    shallow = models.build("resnet20", width=0.25, num_classes=10, seed=0)
    x = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    shallow(x)  # running statistics of its own
    deep = deepen(shallow, models.build("resnet56", width=0.25, num_classes=10, seed=1))
    torch.testing.assert_close(deep.eval()(x), shallow.eval()(x), rtol=0, atol=0)
    deep.train()(x).square().sum().backward()
    assert deep.layer1[1].bn2.weight.grad.abs().sum() > 0


def test_stages_that_do_not_divide_are_refused():
    shallow = models.build("resnet20", width=0.25, num_classes=10, seed=0)
    deep = models.build("resnet18", width=0.25, num_classes=10, seed=1)
    with pytest.raises(ValueError, match="layer1 has 2 blocks, which 3 do not divide"):
        deepen(shallow, deep)


@pytest.mark.skipif("MIPP_DATA" not in os.environ, reason="CIFAR-10 is not here")
def test_resnet56_starts_as_the_trained_resnet20():
    net = NETS["resnet56"]
    shallow = wide_nets.parent(NETS[net.deepens], 0, progress=False)
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    deep = wide_nets.untrained(net, 0).eval()
    assert len(deep.layer1) == 9
    torch.testing.assert_close(deep(x), shallow(x), rtol=0, atol=0)
