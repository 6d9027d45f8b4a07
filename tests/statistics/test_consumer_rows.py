"""Rows of consumers: what a hook sees, position by position or map by map."""

import pytest
import torch
from torch import nn

from mipp.errors import CalibrationError, InputError
from mipp.records import Consumer
from mipp.statistics import CaptureConfig, answers, collect_rows, read_batches

EVERY_ROW = CaptureConfig(rows_per_feature=1e9)


def consumer(name, kind="linear", uses=1, call=0):
    in_dim, out_dim = (0, 1) if kind == "conv_transpose" else (1, 0)
    return Consumer(name, kind, f"{name}.weight", f"{name}.bias", call, in_dim, out_dim, uses,
                    norm_after=False)  # fmt: skip


def hooked(model, name, x):
    """What goes into and comes out of a module, in evaluation mode."""
    seen = []
    handle = model.get_submodule(name).register_forward_hook(
        lambda _module, args, output: seen.append((args[0].detach(), output.detach()))
    )
    model.eval()(x)
    handle.remove()
    return seen[0]


def collected(model, found, x, shape, sizes=(7, 7, 6), config=EVERY_ROW, seed=0):
    batches = read_batches(list(x.split(list(sizes))))
    return collect_rows(model, {3: found}, batches, shape=shape, config=config, seed=seed)[3]


def conv_net(**options):
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 4, 3, **options))


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}])
def test_maps_of_a_convolution_are_what_a_hook_sees(options):
    model, x = conv_net(**options), torch.randn(20, 2, 7, 6)
    into, out = hooked(model, "2", x)
    rows = collected(model, consumer("2", "conv", 20), x, "maps")
    torch.testing.assert_close(rows.inputs, into.flatten(1))
    torch.testing.assert_close(rows.outputs, out.flatten(1))
    assert rows.example.tolist() == list(range(20))


@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": "same"}, {"stride": (1, 3)}],
)
def test_positions_of_a_convolution_reproduce_its_outputs(options):
    model, x = conv_net(**options), torch.randn(20, 2, 7, 6)
    _, out = hooked(model, "2", x)
    uses = out[0, 0].numel()
    rows = collected(model, consumer("2", "conv", uses), x, "positions")
    conv = model[2]
    assert len(rows.inputs) == 20 * uses
    expected = rows.inputs @ conv.weight.flatten(1).T + conv.bias
    torch.testing.assert_close(rows.outputs, expected.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rows.outputs, out.flatten(2).transpose(1, 2).reshape(-1, 4))
    assert rows.example.tolist() == [e for e in range(20) for _ in range(uses)]


def test_positions_drawn_are_rows_of_the_example_that_they_name():
    # every example is one number, so that the patch tells which it is from
    x = torch.arange(60.0).view(60, 1, 1, 1).expand(60, 1, 6, 6) + 1
    model = nn.Sequential(nn.Identity(), nn.Conv2d(1, 2, 3, padding=1))
    config = CaptureConfig(rows_per_feature=1.0, min_rows=300)
    found = consumer("1", "conv", 36)
    rows = collected(model, found, x, "positions", (25, 25, 10), config)
    assert 290 <= len(rows.inputs) <= 310
    assert (rows.inputs.amax(1) == rows.example + 1).all()
    again = collected(model, found, x, "positions", (25, 25, 10), config)
    other = collected(model, found, x, "positions", (25, 25, 10), config, seed=1)
    assert torch.equal(rows.inputs, again.inputs)
    assert not torch.equal(rows.example, other.example)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.second(self.first(x).relu())


def test_a_linear_layer_on_tokens_has_a_row_for_each_or_all_of_them_in_one():
    model, x = Tokens(), torch.randn(20, 6, 4)
    into, out = hooked(model, "second", x)
    rows = collected(model, consumer("second", uses=6), x, "positions")
    torch.testing.assert_close(rows.inputs, into.flatten(0, 1))
    torch.testing.assert_close(rows.outputs, out.flatten(0, 1))
    assert rows.example.tolist() == [e for e in range(20) for _ in range(6)]
    maps = collected(model, consumer("second", uses=6), x, "maps")
    # channel first, as units are
    torch.testing.assert_close(maps.inputs, into.transpose(1, 2).flatten(1))
    torch.testing.assert_close(maps.outputs, out.transpose(1, 2).flatten(1))


@pytest.mark.parametrize("shape", ["maps", "positions"])
def test_a_linear_layer_on_vectors_has_one_row_an_example(shape):
    model, x = Tokens(), torch.randn(20, 4)
    into, out = hooked(model, "second", x)
    rows = collected(model, consumer("second"), x, shape)
    torch.testing.assert_close(rows.inputs, into)
    torch.testing.assert_close(rows.outputs, out)
    assert rows.example.tolist() == list(range(20))


def test_a_transposed_convolution_gives_what_each_input_position_adds():
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.ConvTranspose2d(3, 4, 2, stride=2))
    x = torch.randn(20, 2, 3, 5)
    into, out = hooked(model, "2", x)
    rows = collected(model, consumer("2", "conv_transpose", 15), x, "positions")
    torch.testing.assert_close(rows.inputs, into.flatten(2).transpose(1, 2).reshape(-1, 3))
    # kernels that do not overlap: the window of each position is its part of the output
    windows = (out - model[2].bias.detach()[:, None, None]).unfold(2, 2, 2).unfold(3, 2, 2)
    expected = windows.permute(0, 2, 3, 1, 4, 5).reshape(20 * 15, -1)
    torch.testing.assert_close(rows.outputs, expected, rtol=1e-4, atol=1e-5)
    maps = collected(model, consumer("2", "conv_transpose", 15), x, "maps")
    torch.testing.assert_close(maps.inputs, into.flatten(1))
    torch.testing.assert_close(maps.outputs, out.flatten(1))


def test_the_second_call_of_a_weight_is_another_consumer():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(4, 4)

        def forward(self, x):
            return self.lin(self.lin(x).relu())

    model, x = Twice(), torch.randn(20, 4)
    rows = collected(model, consumer("lin", call=1), x, "maps")
    torch.testing.assert_close(rows.inputs, model.lin(x).relu().detach())


@pytest.mark.parametrize("shape", ["maps", "positions"])
def test_layers_that_work_in_place_do_not_reach_into_the_rows(shape):
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3), nn.ReLU(True))
    x = torch.randn(20, 4)
    rows = collected(model, consumer("2"), x, shape)
    torch.testing.assert_close(rows.outputs, model[2](model[0](x).relu()).detach())
    assert (rows.outputs < 0).any()
    assert torch.equal(collected(model, consumer("0"), x, shape).outputs, model[0](x).detach())


@pytest.mark.parametrize("shape", ["maps", "positions"])
def test_half_precision_comes_as_single_and_double_stays(shape):
    x = torch.randn(20, 4)
    for dtype, kept in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        rows = collected(Tokens().to(dtype), consumer("second"), x.to(dtype), shape)
        assert rows.inputs.dtype == rows.outputs.dtype == kept


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_and_the_generators_are_as_before(fails):
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 3))
    model.train()
    model[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    if fails:
        with pytest.raises(
            CalibrationError, match="The model fails on batch 0: RuntimeError: mat1"
        ):
            collected(model, consumer("3"), x[:, :3], "maps")
    else:
        collected(model, consumer("3"), x, "positions")
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 5
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_consumer_that_never_ran_is_an_error():
    with pytest.raises(CalibrationError, match="third was traced but never ran"):
        collected(Tokens(), consumer("third"), torch.randn(20, 4), "maps")


def test_values_that_are_not_finite_are_an_error():
    model = Tokens()
    with torch.no_grad():
        model.second.bias[0] = torch.inf
    with pytest.raises(CalibrationError, match="second takes in or gives NaN or infinite values"):
        collected(model, consumer("second"), torch.randn(20, 4), "positions")


def test_whole_maps_of_a_layer_that_mixes_examples_are_an_error():
    class Folded(Tokens):
        def forward(self, x):
            return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    x = torch.randn(20, 6, 4)
    with pytest.raises(CalibrationError, match="runs on 42 rows for a batch of 7 examples"):
        collected(Folded(), consumer("second", uses=6), x, "maps")
    rows = collected(Folded(), consumer("second", uses=6), x, "positions")
    assert rows.example.tolist() == [e for e in range(20) for _ in range(6)]


def test_answers_are_the_outputs_of_every_example_in_order():
    class TwoHeads(Tokens):
        def forward(self, x):
            hidden = self.first(x).relu()
            return {"a": self.second(hidden), "b": hidden.sum(1), "c": hidden.argmax(1)}

    model, x = TwoHeads().train(), torch.randn(20, 4)
    found = answers(model, read_batches(list(x.split(7))), "outputs")
    hidden = model.first(x).relu()
    expected = torch.cat([model.second(hidden), hidden.sum(1, keepdim=True)], 1)
    torch.testing.assert_close(found, expected.detach())
    assert model.training


def test_labels_are_those_that_came_along():
    x, y = torch.randn(20, 4), torch.randint(0, 3, (20,), dtype=torch.int32)
    batches = read_batches(list(zip(x.split(7), y.split(7), strict=True)))
    found = answers(Tokens(), batches, "labels")
    assert found.dtype == torch.int64
    assert found.tolist() == y.tolist()


@pytest.mark.parametrize(
    "target", [None, torch.randn(20), torch.zeros(20, 3).long(), torch.zeros(20, 1).long()]
)
def test_labels_that_are_no_class_indices_are_an_error(target):
    batch = torch.randn(20, 4) if target is None else (torch.randn(20, 4), target)
    with pytest.raises(InputError, match="needs class indices of shape"):
        answers(Tokens(), read_batches([batch]), "labels")


def test_labels_below_zero_are_an_error():
    batch = torch.randn(20, 4), torch.randint(-1, 1, (20,)).index_fill(0, torch.tensor([3]), -100)
    with pytest.raises(InputError, match="was given the label -100; class indices count from 0"):
        answers(Tokens(), read_batches([batch]), "labels")


def test_examples_that_are_not_in_the_first_dimension_are_an_error():
    class SequenceFirst(Tokens):
        def forward(self, x):
            return super().forward(x.transpose(0, 1)).transpose(0, 1)

    x = torch.randn(20, 6, 4)
    with pytest.raises(CalibrationError, match=r"takes in \(6, 7, 5\) for a batch of 7 examples"):
        collected(SequenceFirst(), consumer("second", uses=6), x, "positions")
