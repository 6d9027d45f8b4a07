"""Which positions of a call are drawn: their number, and never padding."""

import torch
from torch import nn

from mipp.tracing.calls import CallHooks
from mipp.tracing.sampling import consumer_seed, n_features, sampled_positions, weight_seed


def first_call(model, x):
    found = []

    def after(call, output):
        found.append(call)
        return output

    with CallHooks(model, after=after, grouped=True):
        model(x)
    return found[0]


def test_a_batch_gives_its_share_of_the_rows_and_all_where_more_are_wanted():
    call = first_call(nn.Linear(4, 3), torch.randn(10, 5, 4))
    pick = sampled_positions(call, None, wanted=60, n_samples=30, seed=1)
    assert len(set(pick.tolist())) == len(pick) == 20
    assert not torch.equal(pick, pick.sort().values)
    assert torch.equal(pick, sampled_positions(call, None, 60, 30, 1))
    everything = sampled_positions(call, None, wanted=1e9, n_samples=30, seed=1)
    assert everything.tolist() == list(range(50))
    assert len(sampled_positions(call, None, 1e-9, 30, 1)) == 1


def test_padding_is_never_drawn_and_only_padding_gives_none():
    call = first_call(nn.Linear(4, 3), torch.randn(10, 5, 4))
    mask = torch.arange(5) < torch.arange(10).unsqueeze(1) % 4
    real = mask.flatten().nonzero().flatten()
    assert torch.equal(sampled_positions(call, mask, 1e9, 10, 0), real)
    few = sampled_positions(call, mask, 4, 10, 0)
    assert len(few) == 4
    assert torch.isin(few, real).all()
    assert len(sampled_positions(call, torch.zeros_like(mask), 4, 10, 0)) == 0


def test_features_are_those_of_a_block():
    x = torch.randn(2, 6, 8, 8)
    assert n_features(first_call(nn.Conv2d(6, 4, 3, groups=2), x)) == 27
    assert n_features(first_call(nn.ConvTranspose2d(6, 4, 3, groups=2), x)) == 3
    assert n_features(first_call(nn.Linear(8, 4), x)) == 8


def test_seeds_differ_with_each_of_their_numbers():
    assert consumer_seed(1, 2, 3) == 1_000_003 + 20_014 + 3
    assert len({weight_seed(*n) for n in [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0),
                                          (0, 0, 0, 1)]}) == 5  # fmt: skip
