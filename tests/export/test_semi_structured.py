"""The pattern 2:4 as sparse tensor cores take it; on the CPU the layout, on a card the tensors."""

import copy

import pytest
import torch
from torch import nn
from torch.sparse import _semi_structured_conversions as conversions

import mipp
from mipp import errors
from mipp.export.semi_structured import has_pattern, semi_structured_layers


def pruned():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(),
                        nn.Linear(64, 10))  # fmt: skip
    x = torch.randn(512, 64)
    return mipp.prune(net, [x], granularity="2:4", noise=0.1, protect="4").eval(), x


def test_the_layers_of_the_pattern_are_found_and_the_others_are_not():
    model, _ = pruned()
    assert semi_structured_layers(model) == ["0", "2"]
    with torch.no_grad():
        model[0].weight[3, 8:12] = 1
    assert semi_structured_layers(model) == ["2"]
    assert not has_pattern(torch.zeros(4, 6))
    assert has_pattern(torch.ones(2, 8), 4, 4)


@pytest.mark.filterwarnings("ignore")  # the prototype says that it is one
def test_pytorchs_compressed_layout_holds_these_weights_exactly():
    model, _ = pruned()
    for name in semi_structured_layers(model):
        dense = model.get_submodule(name).weight.detach().half()
        values, places = conversions.sparse_semi_structured_from_dense_cutlass(dense)
        assert values.shape == (dense.shape[0], dense.shape[1] // 2)
        again = conversions.sparse_semi_structured_to_dense_cutlass(values, places)
        assert torch.equal(again, dense)


def test_where_there_is_no_such_card_the_error_says_what_it_takes():
    model, _ = pruned()
    with pytest.raises(
        errors.InputError, match=r"on cpu; .* CUDA device of compute capability 8\.0"
    ):
        mipp.export.to_semi_structured(model)


def test_a_dense_model_is_an_error():
    with pytest.raises(errors.InputError, match="No linear layer of the model has the pattern 2:4"):
        mipp.export.to_semi_structured(nn.Linear(8, 8))


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0),
    reason="needs sparse tensor cores",
)
@pytest.mark.filterwarnings("ignore")
def test_on_a_card_the_sparse_model_computes_what_the_zeros_compute():
    model, x = pruned()
    model, x = model.half().cuda(), x.half().cuda()
    state = copy.deepcopy(model.state_dict())
    sparse = mipp.export.to_semi_structured(model)
    torch.testing.assert_close(sparse(x), model(x), rtol=1e-2, atol=1e-2)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())
