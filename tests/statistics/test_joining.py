"""Several batches as one, for the refit."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mipp
from mipp import errors


class Pair(nn.Module):
    """Images against fixed texts, as CLIP has them: one output has the examples in its columns."""

    def __init__(self):
        super().__init__()
        self.image = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 8))
        self.text = nn.Sequential(nn.Linear(7, 32), nn.ReLU(), nn.Linear(32, 8))

    def forward(self, pixels, texts):
        a, b = self.image(pixels), self.text(texts)
        return a @ b.T, b @ a.T


def test_examples_may_be_in_the_columns_of_an_output():
    texts = torch.randn(3, 7)
    batches = [{"pixels": torch.randn(n, 12), "texts": texts} for n in (40, 40, 20)]
    small = mipp.plan(Pair(), batches, "units=50%", noise=0.1).apply()
    assert small.image[0].out_features < 32


class Broadcast(nn.Module):
    """A number for all examples stands beside them, as a time step of diffusion does."""

    def __init__(self):
        super().__init__()
        self.a, self.o = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x, t):
        return self.o(F.relu(self.a(x) * t[:, None]))


def test_an_input_of_length_one_is_no_batch_of_its_own():
    batch = ((torch.randn(64, 16), torch.ones(1)), None)
    plan = mipp.plan(Broadcast(), [batch, batch], "units=50%", noise=0.1, samples=40)
    assert [len(one) for one in plan.batches] == [40]
    assert plan.apply().a.out_features == 16


def test_batches_with_other_numbers_beside_the_examples_are_not_joined(monkeypatch):
    model = Broadcast()
    batches = [((torch.randn(64, 16), torch.full((1,), float(n % 2))), None) for n in range(3)]

    def fitted():
        return mipp.plan(model, batches, "units=50%", noise=0.1).apply().o.weight.detach()

    apart = fitted()
    monkeypatch.setattr("mipp.pieces.MOST_PIECES", 2)
    torch.testing.assert_close(fitted(), apart)


class Fails(nn.Module):
    fails = False

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 32), nn.Linear(32, 5)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        if self.fails:
            raise ValueError("on a bad day")
        self.calls += 1
        return self.b(F.relu(self.a(x)))


def test_what_a_forward_raises_in_the_refit_is_said_in_words():
    model = Fails()
    plan = mipp.plan(model, [torch.randn(40, 16)] * 2, "units=50%", noise=0.1)
    model.fails = True
    with pytest.raises(errors.CalibrationError, match="fails on the batches: ValueError: on a bad"):
        plan.apply()


@pytest.mark.parametrize(
    "options", [{"budget": "units=50%"}, {"budget": "params=50%", "granularity": "weight"}]
)
def test_buffers_that_a_forward_changes_are_as_they_were_in_the_refitted_model(options):
    plan = mipp.plan(Fails(), [torch.randn(40, 16)] * 2, noise=0.1, **options)
    assert plan.apply().calls.item() == plan.mask().calls.item() == 0
