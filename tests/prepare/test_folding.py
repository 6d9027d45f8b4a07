"""Norms and masks of weights: refused with what to do, and pruned once they are folded."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

import mipp
from mipp.errors import SurgeryError
from mipp.surgery.tensors import named_tensors
from tests.surgery.pruning import pruned, reasons, seeded

NORMS = {
    "weight": parametrizations.weight_norm,
    "spectral": parametrizations.spectral_norm,
    "old weight": lambda layer: _quiet(torch.nn.utils.weight_norm, layer),
    "old spectral": torch.nn.utils.spectral_norm,
    "over inputs": lambda layer: parametrizations.weight_norm(layer, dim=1),
}
X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0)).double()


def _quiet(norm, layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return norm(layer)


class Net(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3), norm(nn.Conv2d(6, 8, 3))
        self.c, self.d, self.out = norm(nn.Linear(8, 9)), nn.Linear(9, 5), nn.Linear(5, 2)

    def forward(self, x):
        x = F.relu(self.b(F.relu(self.a(x)))).mean((2, 3))
        return self.out(F.relu(self.d(F.relu(self.c(x)))))


@pytest.mark.parametrize("name", NORMS)
def test_normed_weights_are_refused_with_what_to_do_and_pruned_once_folded(name):
    model = seeded(lambda: Net(NORMS[name]))
    graph, _ = pruned(model, X)
    assert [group.name for group in graph.groups] == ["d"]
    assert "b: the weight of this layer is computed" in reasons(graph)
    assert reasons(graph).count("make it plain with mipp.prepare.folded(model)") == 3
    plain = mipp.prepare.folded(model.train())
    assert plain.training
    assert plain.b.training
    torch.testing.assert_close(plain.eval()(X), model.eval()(X))
    assert {key for key in plain.state_dict() if key.startswith("b.")} == {"b.weight", "b.bias"}
    graph, _ = pruned(plain, X)
    assert {g.name: g.n_units for g in graph.groups} == {"d": 5, "c": 9, "b": 8, "a": 6}


def test_the_model_keeps_its_norms_also_after_a_forward_pass():
    model = seeded(lambda: Net(NORMS["old weight"]))
    model.train()(X).sum().backward()
    before = {name: tensor.clone() for name, tensor in named_tensors(model).items()}
    plain = mipp.prepare.folded(model)
    assert {"b.weight_g", "b.weight_v"} <= before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in named_tensors(model).items())
    torch.testing.assert_close(plain.eval()(X), model.eval()(X))


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


def test_other_parametrizations_are_folded_and_plain_models_are_copied():
    layer = nn.Linear(3, 2)
    parametrize.register_parametrization(layer, "weight", Doubled())
    plain = mipp.prepare.folded(layer)
    assert torch.equal(plain.weight, layer.weight)
    assert type(plain) is nn.Linear
    again = mipp.prepare.folded(plain)
    assert again is not plain
    assert torch.equal(again.weight, plain.weight)


def test_a_model_that_cannot_be_copied_is_an_error_that_says_so():
    layer = nn.Linear(3, 2)
    layer.generator = (i for i in range(3))
    with pytest.raises(SurgeryError, match=r"Linear cannot be made plain: .*remove_parametrizatio"):
        mipp.prepare.folded(layer)


MASKS = {
    "rows": lambda layer: prune.ln_structured(layer, "weight", 0.5, 2, 0),
    "single weights": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "a given mask": lambda layer: prune.custom_from_mask(
        layer, "weight", torch.rand_like(layer.weight).gt(0.5)
    ),
    "twice": lambda layer: prune.random_unstructured(
        prune.l1_unstructured(layer, "weight", 0.3), "weight", 0.3
    ),
    "biases, too": lambda layer: prune.l1_unstructured(
        prune.l1_unstructured(layer, "weight", 0.5), "bias", 0.5
    ),
}


@pytest.mark.parametrize("name", MASKS)
def test_masked_weights_are_refused_with_what_to_do_and_pruned_once_folded(name):
    model = seeded(lambda: Net(MASKS[name]))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    graph, _ = pruned(model, X)
    assert [group.name for group in graph.groups] == ["d"]
    assert reasons(graph).count("make it plain with mipp.prepare.folded(model)") == 3
    plain = mipp.prepare.folded(model)
    torch.testing.assert_close(plain(X), model(X))
    assert {key for key in plain.state_dict() if key.startswith("b.")} == {"b.weight", "b.bias"}
    assert bool((plain.b.weight == 0).any())
    graph, _ = pruned(plain, X)
    assert {g.name: g.n_units for g in graph.groups} == {"d": 5, "c": 9, "b": 8, "a": 6}
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())
    plain(X).sum().backward()
    assert isinstance(plain.b.weight, nn.Parameter)
    assert plain.b.weight.grad is not None


def test_masks_over_the_whole_model_and_of_the_last_layers_only():
    model = seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)))
    prune.global_unstructured([(model[0], "weight"), (model[2], "weight")], prune.L1Unstructured,
                              amount=0.4)  # fmt: skip
    x = torch.randn(64, 6).double()
    with pytest.raises(mipp.MippError, match=r"mipp\.prepare\.folded\(model\)"):
        mipp.plan(model, [x], budget="units=50%")
    with pytest.raises(mipp.MippError, match=r"mipp\.prepare\.folded\(model\)"):
        mipp.plan(model, [x], budget="params=50%", granularity="weight")
    plan = mipp.plan(mipp.prepare.folded(model), [x], budget="units=50%")
    torch.testing.assert_close(plan.mask()(x), plan.apply(refit=False)(x))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x):
        return self.out(self.rnn(x)[0][:, -1])


def test_masks_in_recurrent_layers():
    model, x = seeded(Recurrent), torch.randn(8, 5, 4).double()
    prune.l1_unstructured(model.rnn, "weight_hh_l0", 0.5)
    with pytest.raises(mipp.MippError, match=r"recurrent layer are.*mipp\.prepare\.folded"):
        mipp.plan(model, [x], budget="units=50%", noise=0.1)
    plain = mipp.prepare.folded(model)
    torch.testing.assert_close(plain(x), model(x))
    assert set(dict(plain.rnn.named_parameters())) == {
        "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0",
    }  # fmt: skip
    plan = mipp.plan(plain, [x], budget="units=50%", noise=0.1)
    torch.testing.assert_close(plan.mask()(x), plan.apply(refit=False)(x))


def test_a_shared_weight_stays_whole_where_it_has_no_mask():
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)))
    model[2].weight = model[0].weight
    prune.l1_unstructured(model[0], "weight", 0.5)
    plain, x = mipp.prepare.folded(model), torch.randn(3, 4).double()
    torch.testing.assert_close(plain(x), model(x))
    assert bool((plain[0].weight == 0).any())
    assert not bool((plain[2].weight == 0).any())


def test_a_masked_bias_alone_is_cut_with_its_layer():
    model = seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)))
    prune.l1_unstructured(model[2], "bias", 0.5)
    x = torch.randn(64, 6).double()
    prune.l1_unstructured(model[0], "bias", 0.5)
    plan = mipp.plan(model, [x], budget="units=50%")
    small = plan.apply()
    assert small[0].bias_mask.shape == small[0].bias_orig.shape == (4,)
    torch.testing.assert_close(plan.mask()(x), plan.apply(refit=False)(x))
    full, bare, fitted = (net(x) for net in (model, plan.apply(refit=False), small))
    assert (fitted - full).norm() <= (bare - full).norm()
