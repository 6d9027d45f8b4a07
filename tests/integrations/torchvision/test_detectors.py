"""Detectors of torchvision, the whole way: plan, apply, boxes, a training step, save and load."""

import pytest
import torch
from torch.utils import _pytree as pytree

import mipp

pytest.importorskip("torchvision", reason="torchvision is not installed: make integrations")

from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from mipp.integrations import torchvision as detectors


def backbone(**settings):
    return resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, trainable_layers=5, **settings
    )


def levels():
    return backbone(returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))


SMALL = {"num_classes": 3, "min_size": 64, "max_size": 96}
MADE = {
    "fasterrcnn": lambda: detection.FasterRCNN(backbone(), **SMALL),
    "retinanet": lambda: detection.RetinaNet(levels(), **SMALL),
    "fcos": lambda: detection.FCOS(levels(), **SMALL),
    "ssdlite": lambda: detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    ),
}


def images():
    """Two batches of images of several sizes."""
    draw = torch.Generator().manual_seed(0)
    return [
        [torch.rand(3, 64, 80, generator=draw), torch.rand(3, 80, 64, generator=draw)],
        [torch.rand(3, 48, 64, generator=draw), torch.rand(3, 48, 64, generator=draw)],
    ]


def weights(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.slow
# torchvision compiles `roi_align` where it has no compiled operators, which imports a lot
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning:torch")
@pytest.mark.parametrize("name", MADE)
def test_the_whole_way(name, tmp_path):
    torch.manual_seed(0)
    detector = MADE[name]().train()
    plan = detectors.plan(detector, images(), "macs=50%", method="l2")
    assert plan.after.macs <= 0.5 * plan.before.macs
    assert all(module.training for module in detector.modules())
    small = detectors.with_core(detector, plan.apply(refit=False))
    assert weights(small) < weights(detector) == weights(MADE[name]())
    assert all(module.training for module in small.modules())

    targets = [
        {"boxes": torch.tensor([[5.0, 5, 30, 30]]), "labels": torch.tensor([1])} for _ in range(2)
    ]
    sum(small(images()[0], targets).values()).backward()
    assert all(p.grad is not None for p in small.backbone.parameters() if p.requires_grad)
    small.eval()
    found = small(images()[0])
    assert [set(one) for one in found] == [{"boxes", "labels", "scores"}] * 2

    mipp.save(small, tmp_path / "small.safetensors")
    again = mipp.load(MADE[name], tmp_path / "small.safetensors").eval()
    for mine, its in zip(again(images()[0]), found, strict=True):
        assert all(value.equal(its[key]) for key, value in mine.items())


@pytest.mark.slow
def test_the_masked_core_computes_what_the_sliced_one_does():
    torch.manual_seed(0)
    detector = MADE["retinanet"]().eval()
    plan = detectors.plan(detector, images(), "macs=50%", method="l2")
    x = detectors.core_inputs(detector, images())[0]
    with torch.no_grad():
        masked = pytree.tree_leaves(plan.mask()(x))
        sliced = pytree.tree_leaves(plan.apply(refit=False)(x))
    for mine, its in zip(sliced, masked, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)
    # the channels of the feature maps go, too, since the head alone reads them
    assert plan.keep["backbone.fpn.layer_blocks.2.0"]
    # modes are those of the detector, parameters are shared with it
    assert plan.model.backbone is detector.backbone


def test_inputs_are_those_of_the_backbone_and_of_one_size():
    detector = MADE["retinanet"]()
    seen = []
    detector.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    detector.eval()
    detector(images()[0])
    targets = [{"boxes": torch.zeros(0, 4)}] * 2
    first, second = detectors.core_inputs(detector, [(images()[0], targets), images()[1]])
    assert first.equal(seen[0])
    assert second.shape == first.shape == (2, 3, 96, 96)


def test_other_images_are_refused():
    detector = MADE["retinanet"]()
    with pytest.raises(mipp.errors.InputError, match=r"a batch of type Tensor .* list of images"):
        detectors.core_inputs(detector, [torch.zeros(2, 3, 64, 64)])
    assert detector.training


def test_other_models_are_refused():
    with pytest.raises(mipp.errors.InputError, match=r"Linear was given; expected a detector"):
        detectors.plan(torch.nn.Linear(2, 2), images(), "macs=50%")
