"""Detectors of torchvision, which take lists of images and so cannot be planned as they are.

Their core is planned: the backbone and the convolutions that read its feature maps. What comes
before (resizing) and after (anchors, selection of boxes) has no weights to prune.

Examples:
    ```python
    from mipp.integrations import torchvision as detectors

    plan = detectors.plan(detector, images, "macs=50%")  # batches: lists of images
    small = detectors.with_core(detector, plan.apply())
    mipp.save(small, "small.safetensors")
    same = mipp.load(make_detector, "small.safetensors")
    ```
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mipp import planning
from mipp.errors import InputError
from mipp.tracing.guards import modes_kept

Detector = TypeVar("Detector", bound=nn.Module)


class Core(nn.Module):
    """The backbone of a detector and the head that reads all of its feature maps.

    It shares both with the detector. Where further layers read the feature maps, as in Faster
    R-CNN, these are part of its output, so that their channels stay.

    Attributes:
        backbone: of the detector.
        head: of the detector; of the region proposals where there are two stages.
        two_stages: whether boxes are proposed first and then looked at.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.two_stages = isinstance(getattr(detector, "rpn", None), nn.Module)
        head = getattr(getattr(detector, "rpn", None) or detector, "head", None)
        backbone = getattr(detector, "backbone", None)
        if not (isinstance(backbone, nn.Module) and isinstance(head, nn.Module)):
            raise InputError(
                f"{type(detector).__name__} was given; expected a detector of torchvision, with a "
                "backbone and a head (RetinaNet, FCOS, SSD) or region proposals (Faster, Mask and "
                "Keypoint R-CNN). Plan the part of your model that takes tensors."
            )
        self.backbone, self.head = backbone, head
        self.training = detector.training  # alone, for the parts are the detector's

    def forward(self, x: Tensor) -> Any:
        """Outputs of the head for images of shape ``(n, 3, height, width)``.

        With two stages, ``(outputs, feature maps)``.
        """
        maps = self.backbone(x)
        features = [maps] if isinstance(maps, Tensor) else list(maps.values())
        found = self.head(features)
        return (found, features) if self.two_stages else found


def core_inputs(detector: Any, images: Iterable[Any]) -> list[Tensor]:
    """What the core of a detector is given for these images: resized, normalized and padded.

    Args:
        detector: the detector.
        images: batches; each is a list of images of shape ``(3, height, width)``, or such a list
            and its targets.

    Returns:
        Batches of shape ``(n, 3, height, width)``, all of one height and width: the largest.

    Raises:
        InputError: a batch that holds something else.
    """
    made = []
    with torch.no_grad(), modes_kept(detector):
        detector.eval()
        for batch in images:
            listed = batch[0] if _has_targets(batch) else batch
            if not (
                isinstance(listed, Sequence)
                and listed
                and all(isinstance(image, Tensor) and image.dim() == 3 for image in listed)
            ):
                raise InputError(
                    f"a batch of type {type(listed).__name__} was given; expected a list of images "
                    "of shape (3, height, width), or such a list and its targets."
                )
            made.append(detector.transform(list(listed))[0].tensors)
    height, width = (max((x.shape[dim] for x in made), default=0) for dim in (2, 3))
    return [F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2])) for x in made]


def plan(
    detector: nn.Module, images: Iterable[Any], budget: Any = None, **options: Any
) -> "planning.Plan[Core]":
    """`mipp.plan` for the core of a detector.

    Args:
        detector: of torchvision; it is left as it is.
        images: as for `core_inputs`.
        budget: of the core, without what comes before and after.
        options: further settings of `mipp.plan`.

    Raises:
        MippError: as `mipp.plan` does.
        InputError: no such detector, or other images.
    """
    core = Core(detector)
    with modes_kept(detector):
        return planning.plan(core.eval(), core_inputs(detector, images), budget, **options)


def with_core(detector: Detector, core: Core) -> Detector:
    """A copy of a detector with another core; the one given is left as it is.

    Args:
        detector: that the core was planned for.
        core: what ``plan(...).apply()`` returned; its parts become those of the copy.
    """
    old = Core(detector)
    stand_ins: dict[int, Any] = {id(old.backbone): core.backbone, id(old.head): core.head}
    return copy.deepcopy(detector, stand_ins).train(detector.training)


def _has_targets(batch: Any) -> bool:
    return isinstance(batch, Sequence) and len(batch) == 2 and isinstance(batch[0], Sequence)
