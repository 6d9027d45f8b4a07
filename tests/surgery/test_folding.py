"""Weight and spectral norm: refused with what to do, and pruned once they are folded."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

import mipp
from mipp.errors import SurgeryError
from mipp.surgery.apply import named_tensors

from .pruning import pruned, reasons, seeded

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
    assert reasons(graph).count("make it plain with mipp.folded(model)") == 3
    plain = mipp.folded(model.train())
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
    plain = mipp.folded(model)
    assert {"b.weight_g", "b.weight_v"} <= before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in named_tensors(model).items())
    torch.testing.assert_close(plain.eval()(X), model.eval()(X))


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


def test_other_parametrizations_are_folded_and_plain_models_are_copied():
    layer = nn.Linear(3, 2)
    parametrize.register_parametrization(layer, "weight", Doubled())
    plain = mipp.folded(layer)
    assert torch.equal(plain.weight, layer.weight)
    assert type(plain) is nn.Linear
    again = mipp.folded(plain)
    assert again is not plain
    assert torch.equal(again.weight, plain.weight)


def test_a_model_that_cannot_be_copied_is_an_error_that_says_so():
    layer = nn.Linear(3, 2)
    layer.generator = (i for i in range(3))
    with pytest.raises(SurgeryError, match=r"Linear cannot be made plain: .*remove_parametrizatio"):
        mipp.folded(layer)
