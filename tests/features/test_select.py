"""Input features against data, and against the first layers of a model."""

import numpy as np
import pytest
import torch
from torch import nn

from mipp.errors import CalibrationError, InputError
from mipp.features import select_features
from mipp.features.model_input import first_outputs, targets
from mipp.information import ConsumerView, Gaussian, Masked
from mipp.tracing.guards import measuring


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(weight):
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


class Residual(nn.Module):
    """Two layers read the input, one beside the other; ``last`` reads their sum and the input."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 5), nn.Linear(4, 3)
        self.last = nn.Linear(5, 2)
        self.drop = nn.Dropout(0.9)

    def forward(self, x):
        y = self.drop(self.left(x)).relu()
        return self.last(y) + self.right(x)[:, :2]


@pytest.mark.parametrize("noise", ["fisher", 0.1])
@pytest.mark.parametrize("order", ["ordered", "greedy"])
def test_features_that_the_first_layer_does_not_read_go_and_all_others_stay(noise, order):
    weight = normal(6, 8)
    weight[:, [1, 4]] = 0
    model = nn.Sequential(linear(weight), nn.ReLU(), nn.Linear(6, 3))
    x = normal(300, 8, seed=1)
    found = select_features(x, model, noise=noise, order=order, share=1.0)
    assert found.kept.tolist() == [0, 2, 3, 5, 6, 7]
    assert found.mask.tolist() == [True, False, True, True, False, True, True, True]


def test_a_copy_of_a_feature_goes_though_the_model_reads_it():
    x = normal(400, 5, seed=2)
    x[:, 3] = 2 * x[:, 0]
    found = select_features(x, linear(normal(4, 5)), noise=0.1, share=0.9999)
    assert found.kept.tolist() in ([0, 1, 2, 4], [1, 2, 3, 4])


def test_pixels_that_no_kernel_touches_go():
    # a 1x1 kernel at every second place sees a quarter of the pixels, in both channels
    model = nn.Sequential(nn.Conv2d(2, 4, 1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    x = normal(400, 2, 6, 6, seed=3)
    found = select_features(x, model, noise=0.1, share=1.0)
    touched = np.zeros((2, 6, 6), dtype=bool)
    touched[:, ::2, ::2] = True
    np.testing.assert_array_equal(found.mask, touched)
    assert found.scores.shape == (2, 6, 6)
    assert (found.scores[~touched] < 1e-9 * found.total).all()


@pytest.mark.parametrize(
    ("units", "n_units"), [("positions", 6), ("channels", 3), ("features", 18)]
)
def test_what_goes_as_a_whole_is_a_choice(units, n_units):
    x = normal(200, 3, 2, 3, seed=4)
    y = x[:, 1, 0, 2] + x[:, 2, 0, 2]
    found = select_features(x, y, units=units, keep=2 if units == "features" else 1)
    assert found.n_units == n_units
    stays = np.zeros((3, 2, 3), dtype=bool)
    if units == "positions":
        stays[:, 0, 2] = True
    elif units == "features":
        stays[1:, 0, 2] = True
    else:
        stays[found.kept] = True
        assert found.kept[0] in (1, 2)
    np.testing.assert_array_equal(found.mask, stays)


def test_a_map_of_units_may_leave_features_that_are_always_given():
    x = normal(200, 1, 2, 2, seed=5)
    units = np.array([[[0, 1], [-1, 0]]])
    found = select_features(x, x.flatten(1), units=units, keep=1)
    assert found.kept.tolist() == [0]
    assert found.mask.tolist() == [[[True, False], [True, True]]]


def test_relative_noise_gives_the_nats_of_the_closed_form():
    weight, x = normal(6, 4), normal(500, 4, seed=6) @ normal(4, 4, seed=7)
    view = ConsumerView(torch.cov(x.T.double(), correction=0), weight, None, torch.arange(4), 1)
    expected = Gaussian(noise=0.1).scorer([view], 4)
    steps = expected.remove_least(4)
    found = select_features(x, nn.Sequential(linear(weight), nn.Tanh()), noise=0.1, keep=1)
    assert found.total == pytest.approx(expected.total()[0], rel=1e-4)
    assert found.order.tolist() == [unit for unit, _ in steps[:3]]
    lost = np.cumsum([nats.sum() for _, nats in steps[:3]])
    np.testing.assert_allclose(found.nats_lost[1:], lost, rtol=1e-3)


def test_fisher_noise_sees_what_the_loss_sees():
    weight, x = normal(3, 5), normal(100, 5, seed=8)

    def loss(output, _target):
        return (2 * output[:, 1]).sum()

    # the gradient about the input is twice the row of the only output that counts
    told = targets(linear(weight), x, "fisher", loss, seed=0)
    assert told.shape == (100, 1)
    torch.testing.assert_close(told.abs().flatten(), 2 * (x @ weight[1]).abs())


def test_fisher_noise_of_a_regression_tends_to_the_weight_itself():
    # unit variance: F is the identity, and G = W^T W
    weight, x = normal(3, 4), normal(20_000, 4, seed=9)
    told = targets(linear(weight), x, "fisher", "gaussian", seed=0).double()
    exact = x.double() @ weight.T.double()
    drift = (told.T @ told).trace() / (exact.T @ exact).trace()
    assert float(drift) == pytest.approx(1, abs=0.03)


def test_every_layer_that_the_input_reaches_directly_is_a_reader_and_no_other():
    model, x = Residual().eval(), normal(10, 4)
    with measuring(model):
        found, output = first_outputs(model, x)
    assert output.tolist() == list(range(8))
    expected = torch.cat([model.left(x), model.right(x)], 1)
    torch.testing.assert_close(found, expected)


def test_a_grouped_convolution_is_on_the_way_to_the_first_reader():
    model = nn.Sequential(
        nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3, groups=2), nn.Conv2d(2, 3, 1), nn.Conv2d(3, 1, 1)
    )
    x = normal(10, 2, 5, 5)
    with measuring(model):
        found, output = first_outputs(model, x)
        expected = model[:3](x).flatten(1)
    torch.testing.assert_close(found, expected)
    assert output.tolist() == [0] * 9 + [1] * 9 + [2] * 9


def test_all_positions_of_a_map_have_the_same_noise():
    # one kernel, the same at every pixel: pixels are told as finely as they vary
    x = normal(2000, 1, 1, 3) * torch.tensor([1.0, 0.1, 0.0])
    found = select_features(x, nn.Conv2d(1, 1, 1), noise=0.1, keep=1)
    variance = x.var(0, correction=0).flatten().double()
    nats = 0.5 * torch.log1p(variance / (0.1 * variance.mean()))
    assert found.total == pytest.approx(float(nats.sum()), rel=0.01)
    assert found.order.tolist() == [2, 1]


def test_tokens_of_a_linear_layer_have_the_same_noise_too():
    x = normal(200, 4, 3)
    model = nn.Sequential(nn.Linear(3, 2), nn.Flatten(), nn.Linear(8, 1))
    with measuring(model):
        found, output = first_outputs(model, x)
        expected = model[0](x).transpose(1, 2).flatten(1)
    torch.testing.assert_close(found, expected)
    assert output.tolist() == [0] * 4 + [1] * 4


def test_a_feature_of_two_readers_is_judged_by_both_at_once():
    # features 0 and 1 are told by one reader each, feature 2 by none
    model = Residual()
    with torch.no_grad():
        model.left.weight.zero_()
        model.right.weight.zero_()
        model.left.weight[0, 0] = model.right.weight[0, 1] = model.right.weight[1, 3] = 1
    found = select_features(normal(200, 4), model, noise=0.1, share=1.0)
    assert found.kept.tolist() == [0, 1, 3]


@pytest.mark.parametrize("noise", ["fisher", 0.1])
def test_the_model_is_left_as_it_was(noise):
    model = Residual().train()
    model.left.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    first = select_features(normal(50, 4), model, noise=noise, keep=2)
    again = select_features(normal(50, 4), model, noise=noise, keep=2)
    assert model.training
    assert model.drop.training
    assert not model.left.weight.requires_grad
    assert model.right.weight.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    np.testing.assert_array_equal(first.nats_lost, again.nats_lost)


def test_without_a_rule_a_model_keeps_almost_all_of_its_information():
    model = nn.Sequential(linear(normal(5, 9)), nn.ReLU(), nn.Linear(5, 3))
    x = normal(500, 9, seed=10) @ normal(9, 9, seed=11)
    found = select_features(x, model)
    assert sorted(found.order) == list(range(9))
    gone = 9 - len(found.kept)
    assert found.nats_lost[gone] <= 0.01 * found.total < found.nats_lost[gone + 1]


def test_learned_estimators_select_for_a_model_as_well():
    weight = normal(3, 5)
    weight[:, [0, 2]] = 0
    tiny = Masked(hidden=(16,), epochs=30, learning_rate=3e-3)
    found = select_features(normal(600, 5), linear(weight), noise=0.1, estimator=tiny, keep=3)
    assert found.kept.tolist() == [1, 3, 4]


def test_arrays_and_double_precision_are_taken_as_the_model_wants_them():
    model = nn.Sequential(nn.Linear(3, 2)).double()
    by_array = select_features(normal(50, 3).numpy(), model, noise=0.1, keep=1)
    by_tensor = select_features(normal(50, 3), model, noise=0.1, keep=1)
    assert by_array.kept.tolist() == by_tensor.kept.tolist()


@pytest.mark.parametrize(
    ("x", "given", "text"),
    [
        (torch.zeros(20, 3, dtype=torch.int64), {}, "Tokens are not features"),
        (normal(20), {}, r"X has shape \(20,\)"),
        (normal(5, 3), {}, "ten examples at the least"),
        (np.array([["a"] * 3] * 20), {}, r"expected real numbers \(n_samples, ...\)"),
        (torch.full((20, 3), torch.nan), {}, "X has NaN or infinite values"),
        (normal(20, 3), {"noise": -1.0}, "noise=-1.0; expected 'fisher', or a positive number"),
        (normal(20, 3), {"noise": "some"}, "noise='some'; expected 'fisher'"),
        (normal(20, 3), {"units": "rows"}, "units='rows'; expected 'positions'"),
    ],
)
def test_an_input_that_does_not_fit_a_model_is_refused(x, given, text):
    with pytest.raises(InputError, match=text):
        select_features(x, nn.Linear(3, 2), **given)


def test_swapped_arguments_are_named():
    with pytest.raises(InputError, match=r"X is a Linear; expected ex.*select_features\(x, m"):
        select_features(nn.Linear(3, 2), torch.randn(40, 3))


def test_noise_is_refused_where_there_is_no_model():
    with pytest.raises(InputError, match="noise= is about the outputs of a model"):
        select_features(normal(20, 3), normal(20), noise=0.1)


class Blind(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.layer = kind, nn.Linear(3, 2)

    def forward(self, x):
        if self.kind == "constant":
            return self.layer(torch.zeros_like(x)) + 0 * x.sum(1, keepdim=True)
        if self.kind == "no layer":
            return x.cumsum(1)
        if self.kind == "tokens":
            return self.layer(x.unsqueeze(1).repeat(1, 2, 1).flatten(0, 1)).reshape(len(x), -1)
        with torch.no_grad():
            return self.layer(x)


@pytest.mark.parametrize(
    ("kind", "noise", "text"),
    [
        ("constant", "fisher", "Nothing that the model gives depends on X"),
        ("no layer", 0.1, "No convolution or linear layer of the model reads X"),
        ("tokens", 0.1, "another number of rows than there are examples"),
        ("cut", "fisher", "No gradient reaches X"),
    ],
)
def test_a_model_that_does_not_see_the_input_is_refused(kind, noise, text):
    with pytest.raises(CalibrationError, match=text):
        select_features(normal(20, 3), Blind(kind), noise=noise, loss="gaussian")


def test_gradients_that_are_not_finite_are_refused():
    with pytest.raises(CalibrationError, match="The gradient about X has NaN or infinite values"):
        select_features(
            normal(20, 3), nn.Linear(3, 2), loss=lambda output, _target: (output * torch.nan).sum()
        )
