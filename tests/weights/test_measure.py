"""What is measured at single weights: no padding, and experts that some batches pass by."""

import math

import pytest
import torch
from torch import nn

import mipp
from mipp import errors, statistics, weights

LENGTHS = torch.tensor((3, 7, 5, 6, 7, 4, 2, 7) * 8)


class Reader(nn.Module):
    """A number for each token, from that token alone."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.embedding = nn.Embedding(11, 6)
        self.wide, self.narrow = nn.Linear(6, 12), nn.Linear(12, 5)

    def forward(self, input_ids, attention_mask):
        return self.narrow(self.wide(self.embedding(input_ids)).relu())


def texts(fill):
    """One batch, padded with ``fill``; and the same texts one by one, without padding."""
    tokens = torch.randint(0, 11, (64, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(7) < LENGTHS.unsqueeze(1)
    padded = {"input_ids": torch.where(mask, tokens, fill), "attention_mask": mask.long()}
    single = [
        {"input_ids": t[None, :n], "attention_mask": torch.ones(1, n, dtype=torch.long)}
        for t, n in zip(tokens, LENGTHS.tolist(), strict=True)
    ]
    return padded, single


def seen(batches):
    model, read = Reader().eval(), [statistics.read_batch(batch) for batch in batches]
    layers, _ = weights.find_layers(model, read[0])
    return weights.measure(model, layers, read, loss="gaussian", config=statistics.CaptureConfig())[
        0
    ]


def test_padding_is_not_measured():
    padded, single = texts(9)
    for name, one in seen(single).items():
        all_at_once = seen([padded])[name]
        assert all_at_once.uses == one.uses == LENGTHS.sum() / 64
        for mine, wanted in (
            (all_at_once.mean, one.mean),
            (all_at_once.covariance, one.covariance),
        ):
            torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", [{}, {"rows_per_feature": 1.0, "min_rows": 40}])
@pytest.mark.parametrize("method", ["mipp", "wanda", "sparsegpt"])
def test_what_padding_holds_changes_no_plan_and_no_refit(method, config):
    options = {"granularity": "weight", "method": method,
               "calibration": mipp.CaptureConfig(**config)}  # fmt: skip
    plans = [mipp.plan(Reader(), [texts(f)[0]], "params=80%", **options) for f in (0, 9)]
    for name, mask in plans[0].masks.items():
        assert torch.equal(mask, plans[1].masks[name])
    first, second = (plan.apply().state_dict() for plan in plans)
    for name, values in first.items():
        torch.testing.assert_close(values, second[name])


class Gated(nn.Module):
    """Positive examples go through a grouped convolution."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.expert, self.out = nn.Conv1d(4, 6, 1, groups=2), nn.Linear(6, 2)

    def forward(self, x):
        (mine,) = torch.where(x[:, 0] > 0)
        made = torch.zeros(len(x), 6).index_add(0, mine, self.expert(x[mine].unsqueeze(2))[..., 0])
        return self.out(made)


def test_a_grouped_layer_that_a_batch_passes_by_is_measured_on_the_others():
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(2))
    positive = x[:, 0] > 0
    options = {"granularity": "weight", "noise": 0.1, "refit": None}
    # the negative ones last, so that the layer is found on the first
    apart = mipp.plan(Gated().eval(), [x[positive], x[~positive]], "params=60%", **options)
    whole = mipp.plan(
        Gated().eval(), [torch.cat([x[positive], x[~positive]])], "params=60%", **options
    )
    for name, mask in whole.masks.items():
        assert torch.equal(mask, apart.masks[name])
    for mine, wanted in zip(apart.summary, whole.summary, strict=True):
        assert math.isclose(mine.nats_before, wanted.nats_before, rel_tol=1e-6)


def test_a_layer_that_no_batch_reaches_is_an_error():
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(2))
    layers, _ = weights.find_layers(Gated().eval(), statistics.read_batch(x))
    unreached = [statistics.read_batch(-x.abs())]
    with pytest.raises(
        errors.CalibrationError, match="No token of the calibration batches reaches expert"
    ):
        weights.measure(
            Gated().eval(), layers, unreached, loss=None, config=statistics.CaptureConfig()
        )
