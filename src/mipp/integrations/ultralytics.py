"""Pruned models of ultralytics: calibration images, training that keeps the widths, and files.

Examples:
    ```python
    from ultralytics import YOLO

    import mipp
    from mipp.integrations import ultralytics as prunable

    yolo = YOLO("yolov8n.pt")
    images = prunable.calibration_images(yolo, "coco8.yaml")
    plan = mipp.plan(yolo.model, images, "macs=50%", outputs=prunable.predictions)
    yolo.model = plan.apply()
    yolo.train(trainer=prunable.trainer(yolo), data="coco8.yaml", epochs=10)
    prunable.save(yolo, "small.safetensors")
    yolo = prunable.load("small.safetensors")
    ```
"""

import copy
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mipp.errors import FileError, InputError
from mipp.surgery import load as load_module
from mipp.surgery import save as save_module
from mipp.surgery.files import read_record
from mipp.tracing.forwards import pruned_forward

KEY = "ultralytics"
"""Key under which the files of `save` have what builds the model."""
BOX_ERROR = 0.1
"""Share of a box's size by which it may be wrong at the price of an error of one."""
_LEAST = 1e-7
"""Smallest probability, and how far below 1 the largest is: asin has no finite slope there."""
_BOX_CHANNELS = 64
"""Channels for a box in the maps of versions before 8.4: four sides, 16 numbers each."""
_ACTIVATION = re.compile(r"(torch\.)?nn\.\w+\([\w\s=.,+-]*\)")
"""What ultralytics may evaluate: the call of a layer, with numbers as arguments."""


def predictions(output: Any) -> Any:
    """What a model of ultralytics predicts in evaluation mode, for ``outputs=`` of `mipp.plan`.

    To a plan, an error of one is as bad in one output as in another, so they come on such scales.
    A class's probability p becomes 2 asin(sqrt(p)), in which its Fisher information is 1. Centres
    and sides of boxes, and keypoints, are in tenths of the box's size, and angles in tenths of a
    radian. These and the coefficients of masks count as much as the root of the largest probability
    there: where nothing is found, boxes mean nothing.

    The feature maps that a model returns beside its predictions are free to get narrower.

    Args:
        output: what the model returned for a batch in evaluation mode.

    Returns:
        A dict of tensors for detection, segmentation, poses and oriented boxes; the logits of a
        classifier.

    Raises:
        InputError: what no detector or classifier of ultralytics returns, such as in training mode.
    """
    if isinstance(output, Tensor):
        return output
    if not (isinstance(output, tuple | list) and len(output) == 2):
        raise InputError(
            f"{type(output).__name__} was given as the output of a model of ultralytics; expected "
            "predictions and what they come from, as models return in evaluation mode. Call "
            "model.eval(), or write a function of your own for outputs=."
        )
    first, rest = output
    if isinstance(first, Tensor) and isinstance(rest, Tensor) and first.dim() == 2:
        return rest  # of a classifier: probabilities, logits
    tensors = [first] if isinstance(first, Tensor) else [t for t in first if isinstance(t, Tensor)]
    found, masks = tensors[0], tensors[1:]
    if not masks and isinstance(rest, tuple | list) and isinstance(rest[-1], Tensor):
        masks = [t for t in rest[-1:] if t.dim() == 4 and isinstance(rest[0], list)]
    n_classes = _n_classes(rest)
    boxes, classes, more = found.split([4, n_classes, found.shape[1] - 4 - n_classes], 1)
    sure = classes.detach().amax(1, keepdim=True).clamp(0, 1).sqrt()
    size = boxes[:, 2:4].detach().clamp_min(1)
    made = {
        "boxes": sure * boxes / torch.cat([size, size], 1) / BOX_ERROR,
        "classes": 2 * classes.clamp(_LEAST, 1 - _LEAST).sqrt().asin(),
    }
    if masks:
        made |= {"coefficients": sure * more, "masks": masks[0]}
    elif more.shape[1] == 1:
        made["angles"] = sure * more / BOX_ERROR
    elif more.shape[1] > 1:
        made["keypoints"] = sure * more / size.prod(1, keepdim=True).sqrt() / BOX_ERROR
    return made


def _n_classes(rest: Any) -> int:
    """Number of classes, from what a model returns beside its predictions.

    Raises:
        InputError: it is not there.
    """
    if isinstance(rest, Mapping):
        scores = rest.get("one2one", rest).get("scores")
        if isinstance(scores, Tensor):
            return int(scores.shape[1])
    while isinstance(rest, tuple | list) and rest:  # before version 8.4: maps of boxes and classes
        rest = rest[0]
    if isinstance(rest, Tensor) and rest.dim() == 4 and rest.shape[1] > _BOX_CHANNELS:
        return int(rest.shape[1]) - _BOX_CHANNELS
    raise InputError(
        "this model of ultralytics returns no class scores beside its predictions, so that "
        "mipp.integrations.ultralytics.predictions does not know what they are. Write a function "
        "for outputs= that returns boxes and classes on scales on which an error of one is as bad."
    )


def calibration_images(
    yolo: Any,
    data: str | Path,
    *,
    samples: int = 256,
    batch: int = 16,
    imgsz: int = 640,
    split: str = "train",
) -> list[Tensor]:
    """Images of a data set, resized and padded as for validation, without augmentation.

    Args:
        yolo: a ``YOLO`` object for detection, segmentation, poses or oriented boxes.
        data: the YAML file of the data set, as for ``yolo.train``.
        samples: number of images at most.
        batch: images in a batch.
        imgsz: height and width in pixels.
        split: part of the data set, a key of the YAML file.

    Returns:
        Batches of shape ``(batch, 3, imgsz, imgsz)`` with values from 0 to 1.

    Raises:
        InputError: a task whose data are no images with labels, or a part that the data lack.
    """
    from ultralytics.cfg import get_cfg
    from ultralytics.data import build_yolo_dataset
    from ultralytics.data.utils import check_det_dataset

    tasks = ("detect", "segment", "pose", "obb")
    if yolo.task not in tasks:
        raise InputError(
            f"a model for the task {yolo.task!r} was given; expected one of {', '.join(tasks)}. "
            "Give mipp.plan batches of images of your own."
        )
    found = check_det_dataset(str(data))
    if not found.get(split):
        raise InputError(
            f"split={split!r} was given, and {data} has no such part. Give one that it has, such "
            "as 'train' or 'val'."
        )
    settings = get_cfg(overrides={"task": yolo.task, "imgsz": imgsz})
    dataset = build_yolo_dataset(settings, found[split], batch, found, mode="val")
    chosen = range(min(samples, len(dataset)))
    images = torch.stack([dataset[number]["img"] for number in chosen]).float() / 255
    return list(images.split(batch))


def trainer(yolo: Any) -> type:
    """A trainer class that trains the module that ``yolo`` has now.

    Those of ultralytics build the model again from its YAML file, at full width, and copy what fits
    from the pruned one, which is little, without an error. The class returned here goes on from a
    copy of the pruned module; otherwise it is the trainer of the task. Training can be resumed with
    ``resume=True``.

    Args:
        yolo: a ``YOLO`` object with a pruned module as ``yolo.model``.

    Returns:
        A class for ``yolo.train(trainer=...)``.

    Raises:
        InputError: ``yolo`` has no module. By the trainer: data of another number of classes, and
            several GPUs, for which ultralytics starts processes that cannot import this class.
    """
    base: Any = yolo.task_map[yolo.task]["trainer"]
    module = _module(yolo)

    class PrunedTrainer(base):
        """The trainer of the task, for a module that is not built from YAML."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            if self.ddp:
                raise InputError(
                    f"device={self.args.device!r} was given: ultralytics trains on several devices "
                    "in processes of its own, which build the full-size model. Give one device."
                )

        def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:  # noqa: ARG002
            _check_classes(module, self.data)
            own = copy.deepcopy(module)
            if self.resume and weights is not None:
                own.load_state_dict(weights.float().state_dict())
            return own

    PrunedTrainer.__name__ = f"Pruned{base.__name__}"
    return PrunedTrainer


def save(yolo: Any, path: str | Path) -> None:
    """Writes a pruned model, so that `load` finds all it needs in the file.

    Weights, kept indices, YAML description, names of the classes and image size are in one
    safetensors file. Files of ``yolo.save`` are pickles of the whole module in half precision.

    Args:
        yolo: a ``YOLO`` object, pruned or not.
        path: the file, whose name ends in ``.safetensors``.

    Raises:
        InputError: a module whose norms were fused into convolutions.
        FileError: the file cannot be written.
    """
    module: Any = _module(yolo)
    if module.is_fused():
        raise InputError(
            "the norms of this model were fused into its convolutions, and cannot be separated "
            "again. Save the model before yolo.fuse()."
        )
    size = yolo.overrides.get("imgsz", 640)
    facts = {
        "yaml": dict(module.yaml),
        "task": yolo.task,
        "names": {str(number): name for number, name in dict(module.names).items()},
        "imgsz": size if isinstance(size, int) else list(size),
    }
    save_module(module, path, {KEY: facts})


def load(path: str | Path) -> Any:
    """The ``YOLO`` object of a file that `save` has written.

    Nothing in the file is run: layers are those of ultralytics and torch, by name.

    Raises:
        FileError: no such file, a damaged one, one that `save` did not write, or one that names
            something else than layers.
    """
    from ultralytics import YOLO

    facts = read_record(path).extra.get(KEY)
    if not isinstance(facts, Mapping):
        raise FileError(
            f"{path} was not written by mipp.integrations.ultralytics.save: it does not describe a "
            "model of ultralytics. Read it with mipp.load and the model that it was made from."
        )
    described = dict(facts["yaml"])
    _check_layers(path, described)
    name = Path(str(described.pop("yaml_file", "model.yaml"))).name
    with tempfile.TemporaryDirectory() as folder:
        yolo = YOLO(_written(Path(folder) / name, described), task=facts["task"])
    yolo.model = load_module(yolo.model, path).eval()
    yolo.model.names = {int(number): name for number, name in facts["names"].items()}
    yolo.model.yaml["yaml_file"] = yolo.overrides["model"] = name
    yolo.overrides["imgsz"] = yolo.model.args["imgsz"] = facts["imgsz"]
    yolo.model.args["model"] = name
    return yolo


def _module(yolo: Any) -> nn.Module:
    module = getattr(yolo, "model", None)
    if not isinstance(module, nn.Module):
        raise InputError(
            f"{type(yolo).__name__} without a torch module was given; expected a YOLO object made "
            "from a .yaml or .pt file. Exported models cannot be pruned or trained."
        )
    return module


def _check_classes(module: Any, data: Mapping[str, Any]) -> None:
    has = dict(getattr(module, "yaml", {})).get("nc", data["nc"])
    if data["nc"] != has:
        raise InputError(
            f"the data have {data['nc']} classes, and the pruned model has {has}. Train the "
            "full-size model on these data first, then prune it."
        )


def _check_layers(path: str | Path, described: Mapping[str, Any]) -> None:
    """Raises `FileError` where ultralytics would evaluate something else than layers."""
    from ultralytics.nn import modules

    named = [str(row[2]) for part in ("backbone", "head") for row in described.get(part, ())]
    homes: Iterable[Any] = (modules, nn)
    for name in named:
        last = name.rpartition(".")[2]
        made = next((vars(home)[last] for home in homes if last in vars(home)), None)
        if not (isinstance(made, type) and issubclass(made, nn.Module)):
            raise FileError(
                f"{path} names a layer {name!r}, which neither ultralytics nor torch has. Restore "
                "the file from a copy, or read it with the version of ultralytics that wrote it."
            )
    activation = described.get("activation")
    if activation and not _ACTIVATION.fullmatch(str(activation)):
        raise FileError(
            f"{path} has the activation {activation!r}; expected the call of a layer with numbers, "
            "such as 'nn.ReLU()'. Restore the file from a copy."
        )


def _written(path: Path, described: Mapping[str, Any]) -> Path:
    from ultralytics.utils import YAML

    YAML.save(path, dict(described))
    return path


@pruned_forward("ultralytics.nn.modules.block.Attention")
def _attention(self: Any, x: Tensor) -> Tensor:
    """Its own forward, but for a width that it takes from ``x`` where the heads give it."""
    batch, _, height, width = x.shape
    sizes = [self.key_dim, self.key_dim, self.head_dim]
    made = self.qkv(x).view(batch, self.num_heads, sum(sizes), height * width)
    query, key, value = made.split(sizes, dim=2)
    scores = ((query * self.scale).transpose(-2, -1) @ key).softmax(dim=-1)
    seen = (value @ scores.transpose(-2, -1)).reshape(batch, -1, height, width)
    places: Tensor = self.pe(value.reshape(batch, -1, height, width))
    out: Tensor = self.proj(seen + places)
    return out
