"""Where other libraries go wrong, as their users report and as we saw when we ran them.

Each is a test here, or elsewhere: shape errors behind views and in transformers, split and concat,
padding, shuffles, recurrent layers, attention that stays as it was (`test_zoo.py`); files that do
not load (`tests/surgery/test_files.py`); frozen models, budgets that are ratios of channels only,
collapsed layers (`tests/planning`); indices and optimizers over rounds
(`tests/planning/test_iterating.py`); models left in another mode (`test_shipping.py`).
"""

import random

import pytest
import torch

import mipp
from mipp import statistics, surgery
from mipp.errors import GraphError
from mipp.graph import CostModel, cost
from mipp.planning import prunable_graph
from tests.graph.slicing import random_keep

from .zoo import ZOO

CLASSIFIERS = ("LeNet", "VGG", "ResNet, basic", "MobileNetV2", "ViT, fused projection", "MLP")


def usable(entry):
    model, (args, kwargs) = entry.built(), entry.arguments()
    batch = kwargs or (args, None)
    return model, prunable_graph(model, statistics.read_batches([batch], None)), batch


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_keeps_its_classes_though_nobody_says_so(name):
    """Torch-Pruning makes 5 of 10 outputs unless ``ignored_layers`` names the layer."""
    model, _, batch = usable(ZOO[name])
    small = mipp.plan(model, [batch], "units=40%", noise=0.1).apply(refit=False)
    assert small(*batch[0]).shape == model(*batch[0]).shape


def test_half_of_a_fused_gate_is_half_of_its_rows():
    """Torch-Pruning kept 10 of 128 rows of a SwiGLU that is cut by chunk."""
    entry = ZOO["SwiGLU, fused"]
    model, _, batch = usable(entry)
    widths = {"blocks.0.w12": 5, "blocks.1.w12": 5}
    small = mipp.plan(model, [batch], widths=widths, noise=0.1).apply(refit=False)
    for block in small.blocks:
        assert block.w12.weight.shape[0] == 10
        assert block.w3.weight.shape[1] == 5


def test_nothing_of_the_small_model_is_the_large_one_and_the_optimizer_has_all_of_it():
    """One of 65 parameters was still held by the old optimizer."""
    model, _, batch = usable(ZOO["EfficientNet"])
    optimizer = torch.optim.Adam(model.parameters())
    plan = mipp.plan(model, [batch], "units=50%", noise=0.1)
    small = plan.apply(refit=False)
    mine = {p.data_ptr() for p in model.parameters()}
    assert not mine & {p.data_ptr() for p in small.parameters()}
    held = {id(p) for group in plan.remap(optimizer, small).param_groups for p in group["params"]}
    assert held == {id(p) for p in small.parameters()}


@pytest.mark.parametrize("name", ["LeNet", "VGG", "U-Net", "DenseNet", "MobileNetV2", "MLP"])
def test_groups_come_from_outputs_to_inputs(name):
    """A layer's own consumers are all decided before it."""
    _, graph, _ = usable(ZOO[name])
    place = {key.tensor: group.index for group in graph.groups for key in group.producers}
    for group in graph.groups:
        # the last layer that reads a group makes no units, or those of a group that came before
        last = graph.consumers[group.consumers[-1]]
        assert place.get(last.weight, -1) < group.index


def test_a_refused_layer_is_told_and_the_rest_still_pruned():
    """Unsupported ops blocked the whole model, or left layers out without a word."""
    _, graph, _ = usable(ZOO["bag of words, bilinear"])
    assert [group.name for group in graph.groups] == ["last"]
    assert any("no rule for aten.bilinear" in item.reason for item in graph.refused)


def test_nothing_to_prune_is_an_error_that_says_why():
    with pytest.raises(GraphError, match="only: 3 channels: it is part of the model's output"):
        mipp.prune(ZOO["one layer"].built(), [ZOO["one layer"].arguments()[0]], "units=50%")


def test_a_ratio_of_cost_is_a_ratio_of_cost():
    """A channel ratio of one half is neither half of the parameters nor of the operations."""
    model, graph, batch = usable(ZOO["ResNet, bottleneck"])
    for budget, field in (("params=60%", "params"), ("macs=60%", "macs")):
        plan = mipp.plan(model, [batch], budget, noise=0.1)
        assert getattr(plan.after, field) <= 0.6 * getattr(cost(graph), field)
        small = plan.apply(refit=False)
        assert plan.after.params == sum(p.numel() for p in small.parameters())


def test_no_layer_loses_all_its_channels():
    model, graph, batch = usable(ZOO["Inception"])
    fewest = CostModel(graph)
    for group in graph.groups:
        for unit in range(1, group.n_units):
            fewest.remove(group.index, unit)
    plan = mipp.plan(
        model, [batch], widths=dict.fromkeys((g.name for g in graph.groups), 1), noise=0.1
    )
    assert all(len(units) == 1 for units in plan.keep.values())
    small = plan.apply(refit=False)
    assert all(min(p.shape) > 0 for p in small.parameters() if p.dim())
    assert small(*batch[0]).shape == model(*batch[0]).shape
    assert plan.after.params == cost(graph, fewest.keep).params


OWN = {
    "torchvision": (
        "resnet18",
        "mobilenet_v3_small",
        "shufflenet_v2_x0_5",
        "densenet121",
        "vit_b_16",
    ),
    "timm": ("resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_050", "convnext_atto"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "name"), [(k, name) for k, names in OWN.items() for name in names]
)
def test_models_of_the_libraries(library, name):
    """Where they are installed: at full size, with random weights."""
    if library == "torchvision":
        made = pytest.importorskip(
            "torchvision.models",
            reason="torchvision is no dependency; its models are tested where it is",
        )
        model = made.get_model(name, weights=None)
    else:
        made = pytest.importorskip(
            "timm", reason="timm is no dependency; its models are tested where it is installed"
        )
        model = made.create_model(name, pretrained=False)
    with torch.no_grad():
        for parameter in model.parameters():  # zeros would hide mistakes
            parameter.add_(0.02 * torch.randn_like(parameter))
    batch = torch.randn(2, 3, 224, 224)
    graph = prunable_graph(model.eval(), statistics.read_batches([batch], None))
    assert len(graph.groups) >= 5
    model, images = model.double(), torch.randn(3, 3, 224, 224, dtype=torch.float64)
    keep = random_keep(graph, random.Random(0), 0.5)
    small = surgery.slice_graph(model, graph, surgery.kept_indices(graph, keep))
    with torch.no_grad():
        wanted = surgery.mask_model(model, graph, keep)(images)
        torch.testing.assert_close(small(images), wanted, rtol=1e-8, atol=1e-8)
