"""Rows of inputs and outputs: every kind of call is the matrix product it claims to be."""

import pytest
import torch
from torch import nn

from mipp.tracing.calls import CallHooks, input_rows, n_positions, output_rows, weight_matrix
from mipp.tracing.guards import measuring

CASES = {
    "conv1d": (nn.Conv1d(3, 4, 3, stride=2, padding=1), (2, 3, 9)),
    "conv2d": (nn.Conv2d(3, 4, (3, 2), stride=(1, 2), padding=(2, 0)), (2, 3, 7, 8)),
    "dilated": (nn.Conv2d(2, 3, 3, dilation=2, padding=2), (2, 2, 8, 8)),
    "same, even kernel": (nn.Conv2d(2, 3, 4, padding="same"), (2, 2, 5, 6)),
    "valid": (nn.Conv2d(2, 3, 3, padding="valid"), (2, 2, 5, 6)),
    "reflected": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 2, 5, 6)),
    "conv3d": (nn.Conv3d(2, 3, 2, padding=1), (2, 2, 3, 4, 3)),
    "linear": (nn.Linear(5, 3), (4, 5)),
    "linear on tokens": (nn.Linear(5, 3), (2, 6, 5)),
    "no batch": (nn.Conv2d(2, 3, 3), (2, 6, 6)),
}


def seen_call(layer, x):
    seen = []

    def after(call, output):
        seen.append((call, output))
        return output

    with CallHooks(layer, after=after):
        layer(x)
    return seen[0]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", CASES)
def test_output_is_weight_times_input_row(name):
    layer, shape = CASES[name]
    x = torch.randn(shape)
    call, output = seen_call(layer, x)
    pick = torch.randperm(n_positions(call))[:7]
    rows = input_rows(call, pick)
    product = rows @ weight_matrix(call.kind, layer.weight).T + layer.bias
    torch.testing.assert_close(product, output_rows(call, output, pick))


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1, bias=False),
        nn.ConvTranspose1d(3, 2, 4, stride=3, dilation=2, bias=False),
    ],
)
def test_windows_of_a_transposed_convolution_are_its_adjoint(layer):
    """<g, f(x)> = sum over positions of <window of g, W x>."""
    x = torch.randn(2, 3, *([5] * (layer.weight.dim() - 2)))
    call, output = seen_call(layer, x)
    g = torch.randn_like(output)
    everything = torch.arange(n_positions(call))
    product = input_rows(call, everything) @ weight_matrix(call.kind, layer.weight).T
    torch.testing.assert_close(
        (product * output_rows(call, g, everything)).sum(), (g * output).sum(), rtol=1e-4, atol=1e-3
    )


def test_functional_and_repeated_calls_are_seen_by_their_parameter():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 4))

        def forward(self, x):
            return nn.functional.linear(nn.functional.linear(x, self.w).relu(), self.w)

    seen = []
    model = Twice()

    def after(call, output):
        seen.append(call.key)
        return output

    with CallHooks(model, after=after):
        model(torch.randn(2, 4))
    assert seen == [("w", 0), ("w", 1)]


class Product(nn.Module):
    """A matrix and what is multiplied with it."""

    def __init__(self, multiply, shape=(3, 5)):
        super().__init__()
        self.weight, self.multiply = nn.Parameter(torch.randn(shape)), multiply

    def forward(self, x):
        return self.multiply(self.weight, x)


PRODUCTS = {
    "w @ x": (lambda w, x: w @ x, (4, 5, 6)),
    "w @ x, one example": (torch.mm, (5, 6)),
    "w @ x, four dimensions": (lambda w, x: torch.matmul(w, other=x), (2, 3, 5, 6)),
    "expanded": (lambda w, x: torch.bmm(w[None].expand(len(x), -1, -1), x), (4, 5, 6)),
    "added to": (lambda w, x: torch.addmm(torch.ones(3, 1), w, x) - 1, (5, 6)),
    "batches added to": (
        lambda w, x: torch.baddbmm(torch.ones(1), w.expand(4, 3, 5), x) - 1, (4, 5, 6),
    ),
    "transposed": (lambda w, x: w.mT @ x, (4, 3, 6)),
    "einsum": (lambda w, x: torch.einsum("oi,bil->bol", w, x), (4, 5, 6)),
    "einsum of a list": (lambda w, x: torch.einsum("...i, oi -> ...o", [x, w]), (4, 6, 5)),
    "einsum, other order": (lambda w, x: torch.einsum("bil,oi->lbo", x, w), (4, 5, 6)),
    "x @ w": (lambda w, x: x @ w, (4, 6, 3)),
    "vector @ w": (lambda w, x: x @ w, (3,)),
    "x @ w, expanded": (lambda w, x: x @ w.expand(len(x), -1, -1), (4, 6, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_with_a_weight_is_a_linear_layer_whose_features_are_last(name):
    multiply, shape = PRODUCTS[name]
    layer, x = Product(multiply), torch.randn(shape)
    call, output = seen_call(layer, x)
    assert (call.name, call.weight is layer.weight) == ("weight", True)
    assert call.input.shape[:-1] == output.shape[:-1]
    rows = input_rows(call, torch.arange(n_positions(call)))
    made = output_rows(call, output, torch.arange(n_positions(call)))
    torch.testing.assert_close(rows @ weight_matrix(call.kind, layer.weight).T, made)
    torch.testing.assert_close(call.run(), output)


def test_products_of_tensors_without_storage_are_passed_by():
    def attend(w, x):
        return w @ torch.vmap(lambda q: q @ q.mT)(x)

    layer, x = Product(attend, (3, 4)), torch.randn(2, 4, 5)
    call, output = seen_call(layer, x)
    assert (call.name, output.shape) == ("weight", (2, 4, 3))


@pytest.mark.parametrize("name", PRODUCTS)
def test_what_after_returns_has_the_place_of_such_a_product(name):
    multiply, shape = PRODUCTS[name]
    layer, x = Product(multiply), torch.randn(shape)
    with CallHooks(layer, after=lambda call, output: output * 2):
        doubled = layer(x)
    plus = 1 if "added" in name else 0  # is no part of the product
    torch.testing.assert_close(doubled + plus, (layer(x) + plus) * 2 - plus)


@pytest.mark.parametrize(
    "multiply",
    [
        lambda w, x: w.expand(2, -1, -1) @ x[0],
        lambda w, x: torch.einsum("oi,bil->bl", w, x),
        lambda w, x: torch.einsum("oi,bil->oil", w, x),
        lambda w, x: torch.einsum("oi,bil", w, x),
        lambda w, x: torch.addmm(torch.ones(3, 1), w, x[0], alpha=2),
        lambda w, x: (w * 2) @ x,
        lambda w, x: w @ x[0, :, 0],
    ],
)
def test_other_products_are_passed_by(multiply):
    layer, x = Product(multiply), torch.randn(4, 5, 6)
    seen = []
    with CallHooks(layer, after=lambda call, output: seen.append(call) or output):
        made = layer(x)
    assert seen == []
    torch.testing.assert_close(made, layer(x))


def test_the_output_that_after_returns_is_what_the_model_goes_on_with():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    with CallHooks(model, after=lambda call, output: output * 0):
        assert not model(torch.randn(2, 3)).any()
    assert model(torch.randn(2, 3)).any()


def test_grouped_convolutions_are_passed_by():
    model = nn.Conv2d(4, 4, 3, groups=2)
    with CallHooks(model, after=lambda call, output: output * 0):
        assert model(torch.randn(1, 4, 5, 5)).any()


def test_batch_norm_is_seen_before_it_runs():
    seen = []
    model = nn.BatchNorm2d(3).eval()
    with CallHooks(model, on_norm=seen.append):
        model(torch.randn(2, 3, 4, 4))
    assert seen[0].running_mean is model.running_mean


@pytest.mark.parametrize("fails", [False, True])
def test_measuring_puts_everything_back(fails):
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.Linear(2, 2)))
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    before = torch.get_rng_state()
    try:
        with measuring(model):
            assert not any(m.training for m in model.modules())
            assert not any(p.requires_grad for p in model.parameters())
            torch.rand(3)
            if fails:
                raise KeyError("in the block")
    except KeyError:
        assert fails
    assert [m.training for m in model.modules()] == [True, True, False, False, False]
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    torch.testing.assert_close(torch.get_rng_state(), before)
