"""What one pass measures, on models whose moments and Fisher information are known."""

import pytest
import torch
from torch import nn

from mipp.errors import CalibrationError, InputError
from mipp.records import Consumer
from mipp.statistics import (
    CaptureConfig,
    capture,
    collect_in_order,
    in_passes,
    read_batches,
    site_of,
)

EVERY_ROW = CaptureConfig(rows_per_feature=1e9, fisher_samples=10**9)


def linear(weight, call=0):
    return Consumer(
        name=weight.removesuffix(".weight"), kind="linear", weight=weight, bias=None, call=call,
        in_dim=1, out_dim=0, uses=1, norm_after=False,
    )  # fmt: skip


def mlp():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3))


def test_covariance_is_that_of_what_the_layer_takes_in():
    model, x = mlp(), torch.randn(300, 4)
    seen, _ = capture(model, {7: linear("2.weight")}, read_batches(list(x.split(64))),
                      loss=None, config=EVERY_ROW)  # fmt: skip
    hidden = model[1](model[0](x)).detach().double()
    assert seen[7].rows == 300
    assert seen[7].fisher is None
    torch.testing.assert_close(seen[7].mean, hidden.mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(seen[7].covariance, hidden.T.cov(correction=0), rtol=1e-4, atol=1e-6)


def test_fisher_of_softmax_logits_is_the_covariance_of_the_label():
    model = mlp()
    x = torch.randn(40_000, 4)
    seen, how = capture(model, {0: linear("2.weight")}, read_batches([x]), loss="auto",
                        config=EVERY_ROW)  # fmt: skip
    p = model(x).softmax(1).detach().double()
    expected = torch.diag(p.mean(0)) - p.T @ p / len(p)
    torch.testing.assert_close(seen[0].fisher, expected, rtol=0.03, atol=0.003)
    assert how == "one output of shape (batch, 3) and no targets"


def test_few_examples_tell_the_fisher_of_a_model_that_is_sure():
    model, x = mlp(), torch.randn(400, 4)
    with torch.no_grad():
        model[2].bias[0] += 8
    p = model(x).softmax(1).detach().double()
    expected = torch.diag(p.mean(0)) - p.T @ p / len(p)
    assert p.amax(1).mean() > 0.99
    for seed in range(5):
        seen, _ = capture(model, {0: linear("2.weight")}, read_batches([x]), loss="categorical",
                          config=EVERY_ROW, seed=seed)  # fmt: skip
        assert torch.linalg.norm(seen[0].fisher - expected) < 0.2 * torch.linalg.norm(expected)


def test_fisher_of_unit_variance_regression_is_the_identity():
    model = mlp()
    seen, _ = capture(model, {0: linear("2.weight")}, read_batches([torch.randn(30_000, 4)]),
                      loss="gaussian", config=EVERY_ROW)  # fmt: skip
    torch.testing.assert_close(seen[0].fisher, torch.eye(3).double(), rtol=0.03, atol=0.03)


def test_fisher_flows_back_through_in_place_layers_and_frozen_weights():
    model = mlp().requires_grad_(False)
    batches = read_batches([torch.randn(30_000, 4)])
    seen, _ = capture(model, {0: linear("0.weight")}, batches, loss="gaussian", config=EVERY_ROW)
    active = (model[0](batches[0].args[0]) > 0).double()
    w = model[2].weight.double()
    expected = (w.T @ w) * (active.T @ active / len(active))
    torch.testing.assert_close(seen[0].fisher, expected, rtol=0.1, atol=0.02)


def test_a_loss_of_ones_own_is_used():
    model = mlp()
    x, y = torch.randn(50, 4), torch.randn(50, 3)
    seen, how = capture(
        model, {0: linear("2.weight")}, read_batches([(x, y)]), config=EVERY_ROW,
        loss=lambda output, target: 0.5 * (output - target).square().sum(),
    )  # fmt: skip
    residual = (model(x) - y).detach().double()
    torch.testing.assert_close(seen[0].fisher, residual.T @ residual / 50, rtol=1e-4, atol=1e-6)
    assert how == "given by the caller"


def test_positions_of_a_convolution_are_sampled():
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3))
    conv = Consumer("2", "conv", "2.weight", "2.bias", 0, 1, 0, 36, norm_after=False)
    batches = read_batches(list(torch.randn(400, 2, 8, 8).split(100)))
    config = CaptureConfig(rows_per_feature=40.0, min_rows=10)
    seen, _ = capture(model, {0: conv}, batches, loss="gaussian", config=config)
    assert seen[0].rows == 40 * 27
    every, _ = capture(model, {0: conv}, batches, loss="gaussian", config=EVERY_ROW)
    assert every[0].rows == 400 * 36
    torch.testing.assert_close(seen[0].covariance, every[0].covariance, rtol=0.5, atol=0.1)


def test_same_seed_same_statistics_bit_for_bit():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3))
    batches = read_batches([torch.randn(64, 4)])
    config = CaptureConfig(rows_per_feature=1.0, min_rows=20)
    torch.manual_seed(1)
    first = capture(model, {0: linear("3.weight")}, batches, loss="auto", config=config, seed=5)[0]
    torch.manual_seed(2)
    again = capture(model, {0: linear("3.weight")}, batches, loss="auto", config=config, seed=5)[0]
    other = capture(model, {0: linear("3.weight")}, batches, loss="auto", config=config, seed=6)[0]
    assert torch.equal(first[0].covariance, again[0].covariance)
    assert torch.equal(first[0].fisher, again[0].fisher)
    assert not torch.equal(first[0].covariance, other[0].covariance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_measure_the_same(dtype):
    x = torch.randn(2000, 4)
    model = mlp()
    plain = capture(model, {0: linear("2.weight")}, read_batches([x]), loss="auto",
                    config=EVERY_ROW)[0][0]  # fmt: skip
    other = capture(model.to(dtype), {0: linear("2.weight")}, read_batches([x.to(dtype)]),
                    loss="auto", config=EVERY_ROW)[0][0]  # fmt: skip
    assert other.covariance.dtype == torch.float64
    torch.testing.assert_close(other.covariance, plain.covariance, rtol=0.05, atol=0.01)
    torch.testing.assert_close(other.fisher, plain.fisher, rtol=0.3, atol=0.05)


def test_the_model_is_as_before_and_nothing_is_left_on_it():
    model = mlp().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    capture(model, {0: linear("2.weight")}, read_batches([torch.randn(9, 4)]), loss="auto")
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_values_that_are_not_finite_name_the_layer_and_the_batch():
    model = mlp()
    model[0].weight.data.fill_(1e30)
    batches = read_batches([torch.zeros(2, 4), torch.full((2, 4), 1e30)])
    with pytest.raises(CalibrationError, match="input of 2 has NaN or infinite values in batch 1"):
        capture(model, {0: linear("2.weight")}, batches, loss=None)


def test_a_layer_that_never_runs_is_an_error():
    with pytest.raises(CalibrationError, match="nowhere ran on the first example but never on"):
        capture(mlp(), {0: linear("nowhere.weight")}, read_batches([torch.randn(2, 4)]), loss=None)


@pytest.mark.parametrize(
    ("loss", "message"),
    [("mse", "'mse' is not known"), ("categorical", r"needs one output of shape \(batch, classes")],
)
def test_a_loss_that_does_not_fit_is_an_error(loss, message):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return self.layer(x), x

    with pytest.raises(InputError, match=message):
        capture(Two(), {0: linear("layer.weight")}, read_batches([torch.randn(2, 4)]), loss=loss)


def test_passes_fit_into_memory_and_share_what_items_need_alike():
    sizes = {0: 4, 1: 4, 2: 5, 3: 20}
    assert in_passes([[0], [1], [2], [3]], sizes.__getitem__, 10) == [[0, 1], [2], [3]]
    # the second item needs only site 1 anew, in another pass it needs both
    assert in_passes([[0], [0, 1], [0, 2]], sizes.__getitem__, 9) == [[0, 1], [2]]


@pytest.mark.parametrize("memory", [0.0, 8e3, 1e12])
def test_sites_in_order_are_measured_alike_however_many_batches_wait(memory):
    model = mlp()
    batches = read_batches([*torch.randn(300, 4).split(50)])
    consumers = {0: linear("0.weight"), 1: linear("2.weight")}
    expected, _ = capture(model, consumers, batches, loss="categorical", config=EVERY_ROW)
    found, starts = [], []
    model.register_forward_pre_hook(lambda *_: starts.append(1))
    collect_in_order(
        model, [site_of(consumer, n) for n, consumer in consumers.items()], batches,
        lambda _, measured: found.append(measured), loss="categorical", config=EVERY_ROW,
        memory=memory,
    )  # fmt: skip
    for number, measured in enumerate(found):
        theirs = expected[number]  # of the same rows, summed in another order
        torch.testing.assert_close(measured.covariance, theirs.covariance, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(measured.fisher, theirs.fisher, rtol=1e-5, atol=1e-6)
        assert measured.rows == expected[number].rows == 300
    again = {0.0: 10, 8e3: len(starts) - 12, 1e12: 0}[memory]  # the first batch always waits
    assert len(starts) == 6 + 6 + again  # of which six for gradients
    assert (again > 0) == (memory < 1e6)
