"""Slicing and masking: facts about the copy, and that the model itself is left as it was."""

import copy
import threading

import jaxtyping
import numpy as np
import pytest
import torch
from torch import nn

from mipp.errors import InputError, SurgeryError
from mipp.records import Axis, AxisKey, Cost
from mipp.surgery.keeps import axis_keeps, fingerprint, kept_indices, with_placeholders
from mipp.surgery.kept_record import recorded_axes
from mipp.surgery.mask import mask_model, zeroed_axes
from mipp.surgery.record import PlanRecord
from mipp.surgery.slice import apply_plan, slice_model
from mipp.surgery.tensors import named_tensors, state_shapes

from .hand_built import CASES, axis, consumer, graph


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]()


def sliced(case):
    return slice_model(case.model, kept_indices(case.graph, case.keep), case.graph.aliases)


def test_masked_computes_what_sliced_computes(case):
    masked = mask_model(case.model, case.graph, case.keep)
    with torch.no_grad():
        expected, got = masked(*case.inputs), sliced(case)(*case.inputs)
        before = case.model(*case.inputs)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    assert (before - expected).abs().max() > 1e-3


def test_sliced_has_exactly_the_kept_values(case):
    kept = kept_indices(case.graph, case.keep)
    small = named_tensors(sliced(case))
    for name, tensor in named_tensors(case.model).items():
        expected = tensor.detach()
        first = case.graph.aliases.get(name, name)
        for dim in range(tensor.ndim):
            rows = kept.get(AxisKey(first, dim))
            if rows is not None:
                expected = expected[(slice(None),) * dim + (torch.as_tensor(rows),)]
        assert torch.equal(small[name], expected)
        assert small[name].is_contiguous()


def test_nothing_is_shared_with_the_model(case):
    ours = {tensor.data_ptr() for tensor in named_tensors(case.model).values()}
    for other in (sliced(case), mask_model(case.model, case.graph, case.keep)):
        assert not ours & {tensor.data_ptr() for tensor in named_tensors(other).values()}


def test_model_is_bitwise_untouched(case):
    model = case.model
    next(model.parameters()).requires_grad_(False)
    model.train()
    next(model.children(), model).eval()
    model.register_forward_hook(lambda *_: None)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)

    def state():
        return (
            {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()},
            [module.training for module in model.modules()],
            [list(module._forward_hooks) for module in model.modules()],
            [parameter.requires_grad for parameter in model.parameters()],
            [parameter.grad.sum().item() for parameter in model.parameters()],
            [str(module) for module in model.modules()],
            torch.get_rng_state().tolist(),
            set(vars(model)),
        )

    before = state()
    small, masked = sliced(case), mask_model(case.model, case.graph, case.keep)
    after = state()
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1:] == after[1:]
    for other in (small, masked):
        assert [module.training for module in other.modules()] == before[1]
        assert [len(module._forward_hooks) for module in other.modules()] == list(
            map(len, before[2])
        )
        assert [parameter.requires_grad for parameter in other.parameters()] == before[3]
        assert all(parameter.grad is None for parameter in other.parameters())


def test_attributes_follow_the_shapes():
    mixed, lenet = sliced(CASES["mixed"]()), sliced(CASES["lenet"]())
    grouped, tied = sliced(CASES["grouped"]()), sliced(CASES["tied"]())
    lstm = sliced(CASES["recurrent"]()).lstm
    assert (mixed.stem.in_channels, mixed.stem.out_channels) == (3, 4)
    assert mixed.bn.num_features == 4
    assert (mixed.depthwise.in_channels, mixed.depthwise.groups) == (4, 4)
    assert (mixed.gn.num_channels, mixed.gn.num_groups) == (4, 2)
    assert (mixed.up.in_channels, mixed.up.out_channels) == (4, 2)
    assert mixed.prelu.num_parameters == 2
    assert (mixed.head.in_features, mixed.head.out_features) == (2, 2)
    assert (lenet.fc1.in_features, lenet.fc1.out_features) == (16, 5)
    assert (grouped.grouped.in_channels, grouped.grouped.out_channels) == (4, 6)
    assert grouped.grouped.groups == 2
    assert (tied.tokens.num_embeddings, tied.tokens.embedding_dim) == (11, 3)
    assert tied.classify.in_features == 3
    assert (lstm.input_size, lstm.hidden_size) == (3, 3)


@pytest.mark.parametrize(
    ("layer", "cut", "expected"),
    [
        (nn.BatchNorm2d(6, affine=False), {"running_mean": 0, "running_var": 0}, "num_features"),
        (nn.BatchNorm1d(6), {"weight": 0, "running_mean": 0}, "num_features"),
        (nn.InstanceNorm2d(6, affine=True), {"weight": 0, "bias": 0}, "num_features"),
        (nn.LayerNorm(6), {"weight": 0, "bias": 0}, "normalized_shape"),
        (nn.RMSNorm(6), {"weight": 0}, "normalized_shape"),
        (nn.GroupNorm(6, 6), {"weight": 0, "bias": 0}, "num_channels num_groups"),
        (nn.PReLU(6), {"weight": 0}, "num_parameters"),
        (nn.Conv1d(6, 4, 1), {"weight": 1}, "in_channels"),
        (nn.Conv3d(4, 6, 1), {"weight": 0}, "out_channels"),
        (nn.Conv2d(6, 6, 1, groups=6), {"weight": 0}, "in_channels out_channels groups"),
        (nn.ConvTranspose1d(6, 4, 1), {"weight": 0}, "in_channels"),
        (nn.ConvTranspose3d(4, 6, 1), {"weight": 1}, "out_channels"),
        (nn.ConvTranspose2d(6, 6, 1, groups=6), {"weight": 0}, "in_channels out_channels groups"),
        (nn.Bilinear(6, 4, 3), {"weight": 1}, "in1_features"),
        (nn.Bilinear(4, 6, 3), {"weight": 2}, "in2_features"),
        (nn.Bilinear(4, 3, 6), {"weight": 0}, "out_features"),
        (nn.Embedding(6, 4), {"weight": 0}, "num_embeddings"),
        (nn.EmbeddingBag(4, 6), {"weight": 1}, "embedding_dim"),
        (nn.GRU(6, 4), {"weight_ih_l0": 1}, "input_size"),
        (nn.RNN(4, 6), {"weight_hh_l0": 1}, "hidden_size"),
        (nn.LSTM(4, 7, proj_size=6), {"weight_hr_l0": 0}, "proj_size"),
        (nn.LSTM(4, 6, proj_size=3), {"weight_hr_l0": 1}, "hidden_size"),
        (nn.GRUCell(6, 4), {"weight_ih": 1}, "input_size"),
        (nn.LSTMCell(4, 6), {"weight_hh": 1}, "hidden_size"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_attributes_of_every_kind_of_layer(layer, cut, expected):
    """Dimensions of 6 become 2; all other attributes stay."""

    def attributes(module):
        return {
            name: value
            for name, value in vars(module).items()
            if isinstance(value, (int, tuple, str)) and name != "_mipp_keep"
        }

    kept = {AxisKey(name, dim): np.array([1, 4]) for name, dim in cut.items()}
    small = slice_model(layer, kept)
    changed = {name: value for name, value in attributes(small).items()
               if value != attributes(layer)[name]}  # fmt: skip
    assert changed == {name: (2,) if name == "normalized_shape" else 2 for name in expected.split()}


def test_sliced_model_trains(case):
    small = sliced(case).train()
    small(*case.inputs).square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in small.parameters())


def test_shared_parameters_stay_shared():
    small = sliced(CASES["tied"]())
    assert small.classify.weight is small.tokens.weight
    assert small.tokens.weight.shape == (11, 3)


def test_frozen_bfloat16_stays_frozen_bfloat16():
    case = CASES["mixed"]()
    case.model.to(torch.bfloat16).requires_grad_(False)
    small = sliced(case)
    for name, tensor in named_tensors(small).items():
        assert tensor.dtype == named_tensors(case.model)[name].dtype
        assert not tensor.requires_grad
    assert small(case.inputs[0].bfloat16()).dtype == torch.bfloat16


def test_other_devices():
    case = CASES["mixed"]()
    case.model.to("meta")
    small = sliced(case)
    assert {tensor.device.type for tensor in named_tensors(small).values()} == {"meta"}
    assert small.stem.weight.shape == (4, 3, 3, 3)


def test_units_without_readers_change_nothing():
    case = CASES["lenet"]()
    with torch.no_grad():
        case.model.fc2.weight[:, 1::2] = 0
        case.model.fc1.weight.unflatten(1, (8, 4))[:, 1::2] = 0
        case.model.conv2.weight[:, 1::2] = 0
        difference = case.model(*case.inputs) - sliced(case)(*case.inputs)
    assert difference.abs().max() <= 1e-5


def test_absent_groups_keep_all():
    case = CASES["lenet"]()
    kept = kept_indices(case.graph, {1: case.keep[1]})
    assert set(kept) == {
        AxisKey("fc1.weight", 1), AxisKey("conv2.weight", 0), AxisKey("conv2.bias", 0)
    }  # fmt: skip
    assert kept_indices(case.graph, {}) == {}
    same = slice_model(case.model, {})
    assert torch.equal(same(*case.inputs), case.model(*case.inputs))


def test_masked_zeroes_rows_biases_and_norms_but_no_statistics_and_no_divisor():
    case = CASES["lenet"]()
    masked = mask_model(case.model, case.graph, case.keep)
    for tensor in (masked.conv1.weight, masked.conv1.bias, masked.bn.weight, masked.bn.bias):
        assert not tensor[1::2].any()
        assert tensor[0::2].all()
    assert not masked.fc1.weight.unflatten(1, (8, 4))[:, 1::2].any()
    assert torch.equal(masked.bn.running_mean, case.model.bn.running_mean)
    bare = CASES["bare"]()
    masked = mask_model(bare.model, bare.graph, bare.keep)
    assert torch.equal(masked.divisor, bare.model.divisor)
    assert not masked.first[1::2].any()
    assert not masked.shift[1::2].any()


def test_hooks_still_fire_on_the_copy():
    case = CASES["lenet"]()
    seen = []
    case.model.conv1.register_forward_hook(lambda module, inputs, out: seen.append(out.shape))
    sliced(case)(*case.inputs)
    assert seen == [(4, 3, 8, 8)]


def test_record_counts_in_the_full_size_model_after_two_slices():
    case = CASES["tied"]()
    first = slice_model(case.model, {AxisKey("tokens.weight", 1): np.array([0, 2, 3, 5])})
    second = slice_model(first, {AxisKey("tokens.weight", 1): np.array([1, 3])})
    (record,) = recorded_axes(second)
    assert (record.tensor, record.dim, record.size, record.kept) == ("tokens.weight", 1, 6, (2, 5))
    assert torch.equal(second.tokens.weight, case.model.tokens.weight[:, [2, 5]])
    assert recorded_axes(copy.deepcopy(second)) == (record,)
    assert list(second.state_dict()) == list(case.model.state_dict())


def test_record_of_a_part_is_found_in_the_whole():
    part = slice_model(CASES["tied"]().model, {AxisKey("tokens.weight", 1): np.array([0, 2])})
    whole = nn.Sequential(part, nn.Linear(11, 4))
    assert [record.tensor for record in recorded_axes(whole)] == ["0.tokens.weight"]
    smaller = slice_model(whole, {AxisKey("1.weight", 0): np.array([3])}
                          | {AxisKey("1.bias", 0): np.array([3])})  # fmt: skip
    assert {record.tensor for record in recorded_axes(smaller)} == {
        "0.tokens.weight", "1.weight", "1.bias"
    }  # fmt: skip
    # a part that is taken out again is told from the whole, by names of its own
    own = recorded_axes(smaller[0])
    assert {record.tensor for record in own} == {"tokens.weight", "classify.weight"}
    assert all(record.kept == (0, 2) for record in own)


@pytest.mark.parametrize(
    ("key", "indices", "text"),
    [
        (AxisKey("nowhere", 0), [0], "no parameter or buffer 'nowhere'"),
        (AxisKey("fc1.weight", 2), [0], "no dimension 2"),
        (AxisKey("fc1.weight", -1), [0], "no dimension -1"),
        (AxisKey("fc1.weight", 0), [0, 10], r"rising indices, got \[ 0 10\]"),
        (AxisKey("fc1.weight", 0), [1, 1], r"rising indices"),
        (AxisKey("fc1.weight", 0), [3, 1], r"rising indices"),
        (AxisKey("fc1.weight", 0), [-1, 1], r"rising indices"),
        (AxisKey("fc1.weight", 0), [], r"rising indices"),
    ],
)
def test_indices_that_do_not_fit(key, indices, text):
    with pytest.raises(InputError, match=text):
        slice_model(CASES["lenet"]().model, {key: np.array(indices, dtype=np.int64)})


def test_two_names_of_one_tensor_must_agree():
    kept = {
        AxisKey("tokens.weight", 1): np.array([0]),
        AxisKey("classify.weight", 1): np.array([1]),
    }
    with pytest.raises(InputError, match="two names of this shared tensor"):
        slice_model(CASES["tied"]().model, kept)


@pytest.mark.parametrize(
    ("keep", "text"),
    [
        ({7: np.array([True])}, r"group 7; the graph has groups \[0, 1, 2\]"),
        ({0: np.array([True])}, r"shape \(10,\), got bool of shape \(1,\)"),
    ],
)
def test_keep_that_does_not_fit(keep, text):
    case = CASES["lenet"]()
    with pytest.raises(InputError, match=text):
        kept_indices(case.graph, keep)
    with pytest.raises(InputError, match=text):
        mask_model(case.model, case.graph, keep)


def test_a_group_can_be_masked_as_a_whole_but_not_sliced_away():
    case = CASES["lenet"]()
    keep = {0: np.zeros(10, dtype=bool)}
    with pytest.raises(InputError, match="removes all 10 units"):
        kept_indices(case.graph, keep)
    outputs = mask_model(case.model, case.graph, keep)(*case.inputs)
    torch.testing.assert_close(outputs, case.model.fc2.bias.expand_as(outputs))


@pytest.mark.parametrize("name", CASES)
def test_one_unit_stays_as_zeros_where_a_layer_would_have_nothing_left(name):
    case = CASES[name]()
    keep = {index: np.zeros_like(units) for index, units in case.keep.items()}
    shaped = with_placeholders(case.graph, keep)
    record = PlanRecord(
        keep={g.name: () for g in case.graph.groups},
        axes=axis_keeps(case.graph, kept_indices(case.graph, shaped)),
        refused=(),
        summary=(),
        before=Cost(1.0, 1, 1),
        after=Cost(0.0, 0, 0),
        options={},
        fingerprint=fingerprint(state_shapes(case.model)),
        mipp_version="1",
        zeroed=zeroed_axes(case.model, case.graph, keep),
    )
    assert record.collapsed == tuple(g.name for g in case.graph.groups)
    assert all(units.sum() <= 1 for units in shaped.values())
    again = PlanRecord.from_json(record.to_json())
    assert again == record
    small = apply_plan(case.model, again)
    masked = mask_model(case.model, case.graph, keep)
    torch.testing.assert_close(small(*case.inputs), masked(*case.inputs))


def test_an_empty_group_without_zeroed_weights_is_no_record():
    with pytest.raises(InputError, match="expected one or more rising unit indices"):
        PlanRecord({"fc": ()}, (), (), (), Cost(1.0, 1, 1), Cost(1.0, 1, 1), {}, "0", "1")


def test_keep_that_leaves_a_layer_without_outputs():
    """Two layers make the units of one group; one of them would make nothing."""
    channels = graph(
        [("joined", 4, "left.weight", 0)],
        [Axis(AxisKey("left.weight", 0), np.array([0, 0]), np.array([0, 1]))],
        [],
    )
    with pytest.raises(InputError, match=r"leaves nothing of dimension 0 of 'left.weight'"):
        kept_indices(channels, {0: np.array([False, False, True, True])})


def test_keep_must_be_boolean():
    disabled = jaxtyping.config.jaxtyping_disable
    try:
        # a user has no shape checks at run time; the tests have
        jaxtyping.config.update("jaxtyping_disable", True)
        with pytest.raises(InputError, match=r"boolean mask.*got int64"):
            kept_indices(CASES["lenet"]().graph, {0: np.ones(10, dtype=np.int64)})
    finally:
        jaxtyping.config.update("jaxtyping_disable", disabled)


def test_mask_with_the_graph_of_another_model():
    case = CASES["lenet"]()
    case.model.fc2 = nn.Linear(12, 3)
    with pytest.raises(InputError, match="expected size 10 as in the graph"):
        mask_model(case.model, case.graph, case.keep)


def test_uneven_grouped_convolution():
    model = nn.Conv2d(4, 8, 1, groups=2)
    with pytest.raises(SurgeryError, match=r"would keep \[3, 1\] channels"):
        slice_model(model, {AxisKey("weight", 0): np.array([0, 1, 2, 7])})


def test_grouped_convolution_keeps_its_groups_when_each_loses_the_same():
    small = slice_model(nn.Conv2d(4, 8, 1, groups=2, bias=False),
                        {AxisKey("weight", 0): np.array([0, 1, 6, 7])})  # fmt: skip
    assert (small.groups, small.in_channels, small.out_channels) == (2, 4, 4)
    assert small(torch.randn(1, 4, 2, 2)).shape == (1, 4, 2, 2)


def test_depthwise_with_multiplier():
    rows = np.array([0, 1, 4, 5])
    small = slice_model(nn.Conv2d(3, 6, 1, groups=3),
                        {AxisKey("weight", 0): rows, AxisKey("bias", 0): rows})  # fmt: skip
    assert (small.groups, small.in_channels, small.out_channels) == (2, 2, 4)


def test_group_norm_loses_whole_groups_or_nothing():
    rows = np.array([0, 2])
    with pytest.raises(SurgeryError, match=r"would keep \[1, 1\] of 2 channels"):
        slice_model(nn.GroupNorm(2, 4), {AxisKey("weight", 0): rows, AxisKey("bias", 0): rows})


def test_parametrized_weights_are_refused_where_they_would_be_cut():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Linear(4, 5))
    name = "0.parametrizations.weight.original1"
    with pytest.raises(SurgeryError, match=r"mipp\.prepare\.folded"):
        slice_model(model, {AxisKey(name, 0): np.array([0])})
    small = slice_model(
        model, {AxisKey("1.weight", 0): np.array([0]), AxisKey("1.bias", 0): np.array([0])}
    )
    assert small(torch.randn(2, 3)).shape == (2, 1)


def test_aliases_name_tensors_that_are_cut_alike():
    model = nn.Module()
    model.register_buffer("one", torch.arange(6))
    model.register_buffer("other", torch.arange(6))
    small = slice_model(model, {AxisKey("one", 0): np.array([1, 5])}, {"other": "one"})
    assert small.one.tolist() == small.other.tolist() == [1, 5]


def test_model_that_cannot_be_copied():
    model = nn.Linear(3, 4)
    model.lock = threading.Lock()
    with pytest.raises(SurgeryError, match=r"Linear cannot be copied.*open file or a lock"):
        slice_model(model, {AxisKey("weight", 0): np.array([0])})


def test_lazy_model():
    with pytest.raises(InputError, match="Run one batch"):
        slice_model(nn.LazyLinear(3), {AxisKey("weight", 0): np.array([0])})


def test_full_size_weights_are_never_copied(monkeypatch):
    case = CASES["lenet"]()
    kept = kept_indices(case.graph, case.keep)
    cut = {id(named_tensors(case.model)[key.tensor]) for key in kept}
    copied = []
    original = nn.Parameter.__deepcopy__

    def spy(self, memo):
        copied.append(id(self))
        return original(self, memo)

    monkeypatch.setattr(nn.Parameter, "__deepcopy__", spy)
    slice_model(case.model, kept)
    assert not cut & set(copied)


def test_buffer_of_a_consumer_is_not_zeroed_twice_over_groups():
    """One axis may hold units of two groups and channels that are never removed."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    both = axis("1.weight", 1, 0, 4)
    both.group[:] = [-1, 0, 1, 0]
    both.unit[:] = [-1, 0, 0, 1]
    rows = {name: axis(name, 0, 0, 4) for name in ("0.weight", "0.bias")}
    for one in rows.values():
        one.group[:], one.unit[:] = both.group, both.unit
    channels = graph(
        [("a", 2, "0.weight", 0), ("b", 1, "0.weight", 0)],
        [both, *rows.values()],
        [consumer("1"), consumer("0")],
    )
    keep = {0: np.array([False, True])}
    small = slice_model(model, kept_indices(channels, keep))
    assert torch.equal(small[0].weight, model[0].weight[[0, 2, 3]])
    example = torch.randn(5, 3)
    torch.testing.assert_close(small(example), mask_model(model, channels, keep)(example))
