"""Masks of single weights."""

import itertools

import pytest
import torch

from mipp import errors, methods
from mipp.methods import SNIP, GraSP, IterGraSP, IterSNIP, SynFlow, prunable_weights, weight_masks

from .nets import Normed, data, jitter_norms, question

ALL = [methods.get(name) for name in ("snip", "grasp", "l1", "random", "prospr", "sosp")]


def batches():
    return data(dtype=torch.float32)


@pytest.mark.parametrize(
    "method", [*ALL, SynFlow(rounds=5), IterGraSP(rounds=3)], ids=lambda m: m.name
)
def test_exactly_that_share_of_all_weights_stays(method):
    model = jitter_norms(Normed()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    masks = weight_masks(method, model, batches(), 0.1)
    assert list(masks) == prunable_weights(model)
    assert "norm1.weight" not in masks
    n_weights = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == round(0.1 * n_weights)
    assert all(masks[name].shape == dict(model.named_parameters())[name].shape for name in masks)
    again = weight_masks(method, model, batches(), 0.1)
    assert all(torch.equal(masks[name], again[name]) for name in masks)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_highest_scores_stay():
    model = Normed()
    scores = SNIP().weight_scores(question(model, batches()))
    masks = weight_masks(SNIP(), model, batches(), 0.3)
    kept = torch.cat([scores[n][mask] for n, mask in masks.items()])
    gone = torch.cat([scores[n][~mask] for n, mask in masks.items()])
    assert kept.min() >= gone.max()


def test_grasp_ranks_single_weights_by_its_sign():
    model = Normed()
    scores = GraSP().weight_scores(question(model, batches()))
    masks = weight_masks(GraSP(), model, batches(), 0.5)
    gone = torch.cat([scores[n][~mask] for n, mask in masks.items()])
    assert gone.min() < 0
    assert gone.min() == min(scores[n].min() for n in masks)


def test_rounds_ask_about_the_net_without_what_is_gone():
    model = Normed()
    once = weight_masks(IterSNIP(rounds=1), model, batches(), 0.1)
    often = weight_masks(IterSNIP(rounds=10), model, batches(), 0.1)
    assert any(not torch.equal(once[name], often[name]) for name in once)
    seen = []

    class Watched(SNIP):
        def weight_scores(self, asked):
            scores = super().weight_scores(asked)
            seen.append((dict(asked.live), {n: s.clone() for n, s in scores.items()}))
            return scores

    weight_masks(Watched(rounds=4), model, batches(), 0.1)
    for (before, _), (after, scores) in itertools.pairwise(seen):
        for name, mask in after.items():
            assert not (mask & ~before[name]).any()
            assert (scores[name][~mask] == 0).all()


def test_synflow_in_rounds_keeps_a_path_where_one_round_cuts_it():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 60), torch.nn.ReLU(), torch.nn.Linear(60, 60), torch.nn.ReLU(),
        torch.nn.Linear(60, 2),
    )  # fmt: skip
    x = [torch.randn(8, 4)]
    once = weight_masks(SynFlow(rounds=1), model, x, 0.03)
    often = weight_masks(SynFlow(rounds=100), model, x, 0.03)
    assert min(int(mask.sum()) for mask in once.values()) == 0
    assert min(int(mask.sum()) for mask in often.values()) > 10


def test_what_does_not_fit_is_an_error():
    with pytest.raises(errors.InputError, match="'taylor' scores units, not single weights"):
        weight_masks(methods.get("taylor"), Normed(), batches(), 0.5)
    with pytest.raises(errors.InputError, match="density=0; expected a share"):
        weight_masks(SNIP(), Normed(), batches(), 0)
    with pytest.raises(errors.InputError, match="'snip' needs labels"):
        weight_masks(SNIP(), Normed(), [torch.randn(8, 2, 4, 4)], 0.5)


def test_scores_that_are_not_finite_are_an_error():
    model = Normed()
    with torch.no_grad():
        model.inner.weight[2, 1] = torch.nan
    with pytest.raises(
        errors.CalibrationError, match=r"'l1' gave scores of inner\.weight that are"
    ):
        weight_masks(methods.get("l1"), model, batches(), 0.5)
