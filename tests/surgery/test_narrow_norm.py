"""Norms over a residual stream whose channels do not stand last, and norms that are written out."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mipp


class LayerNorm2d(nn.LayerNorm):
    """Of channels that stand second, as in ConvNeXt."""

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias).permute(0, 3, 1, 2)


class GlobalResponseNorm(nn.Module):
    """Each channel by its share of the response over the image, as in ConvNeXt V2."""

    def __init__(self, width):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(width)), nn.Parameter(torch.randn(width))

    def forward(self, x):
        size = x.norm(p=2, dim=(1, 2), keepdim=True)
        share = size / (size.mean(dim=-1, keepdim=True) + 1e-6)
        return x + torch.addcmul(self.bias, self.weight, x * share)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.response = nn.LayerNorm(width), GlobalResponseNorm(4 * width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        last = self.norm(x.permute(0, 2, 3, 1))
        return x + self.fc2(self.response(F.gelu(self.fc1(last)))).permute(0, 3, 1, 2)


def net(width):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 2, 2), LayerNorm2d(width), Block(width), LayerNorm2d(width),
        nn.Conv2d(width, 6, 1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, 3),
    ).eval()  # fmt: skip


# 8: as many channels as rows and columns, and as examples
@pytest.mark.parametrize("width", [8, 10])
def test_the_sliced_model_computes_what_the_masked_one_does(width):
    model, x = net(width), torch.randn(8, 3, 16, 16)
    plan = mipp.plan(model, [x], "units=60%", method="l2", residual=True)
    small, masked = plan.apply(refit=False), plan.mask()
    assert small[0].out_channels == small[1].normalized_shape[0] < width
    assert small[2].fc1.out_features == small[2].response.weight.numel() < 4 * width
    torch.testing.assert_close(small(x), masked(x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(small(x), model(x), rtol=1e-2)
    # both kinds of norms see fewer channels, and the plan says what that changes
    assert set(plan.record.inexact) == {"0", "2.fc1"}


def test_without_residual_the_response_norm_is_refused_with_the_reason():
    plan = mipp.plan(net(10), [torch.randn(8, 3, 16, 16)], "units=60%", method="l2")
    reasons = {refusal.name: refusal.reason for refusal in plan.refused}
    assert reasons["2.fc1"].startswith("it takes one number over all channels (aten.mean at ")
