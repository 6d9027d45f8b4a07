"""From names on the command line to a model with its weights, checked against its data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from mipp import models, statistics, surgery
from mipp.cli.datasets import Source
from mipp.cli.metrics import Metric
from mipp.cli.model_names import Network
from mipp.cli.own_code import read_shape, said
from mipp.errors import FileError, InputError, MippError
from mipp.surgery.file_record import KEY


@dataclass(frozen=True)
class Wanted:
    """What the command line says about the model, beside its name.

    Attributes:
        width: factor on the channels; None for the model's own.
        classes: number of outputs; None for those of the data.
        weights: file of weights; None for random ones.
        device: where the model runs.
        seed: of random weights.
    """

    width: float | None
    classes: int | None
    weights: Path | None
    device: str
    seed: int


def open_model(network: Network, wanted: Wanted, source: Source | None) -> nn.Module:
    """The model in eval mode, with its weights, on its device.

    Without ``wanted.classes`` it gets as many outputs as the data have classes, unless published
    weights say how many.

    Raises:
        FileError: weights that cannot be read or are of another model.
        InputError: a model that cannot be built, or a device that does not exist.
    """
    classes = wanted.classes
    if classes is None and source is not None and not network.own_classes:
        classes = source.classes
    channels = None if source is None else source.channels
    model = network.build(width=wanted.width, classes=classes, channels=channels, seed=wanted.seed)
    if wanted.weights is not None:
        model = with_weights(model, wanted.weights)
    try:
        return model.to(wanted.device).eval()
    except (RuntimeError, AssertionError) as error:  # torch has both for devices that are not there
        raise InputError(f"--device {wanted.device} cannot be used: {said(error)}.") from error


def with_weights(model: nn.Module, path: Path) -> nn.Module:
    """The model with the weights of a file; a smaller one if the file has a pruned model.

    Raises:
        FileError: a file that cannot be read or is of another model.
    """
    if _saved_by_mipp(path):
        return surgery.load(model, path)
    weights = surgery.read_weights(path)
    mine = model.state_dict()
    missing, unknown = sorted(mine.keys() - weights.keys()), sorted(weights.keys() - mine.keys())
    shapes = [
        f"{name} is {tuple(weights[name].shape)} in the file and {tuple(tensor.shape)} in the model"
        for name, tensor in mine.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    found = {"it lacks": missing, "it has besides": unknown, "shapes differ:": shapes}
    problems = [f"{what} {_some(names)}" for what, names in found.items() if names]
    if problems:
        raise FileError(
            f"--weights {path} is of another model than {type(model).__name__}: "
            f"{'; '.join(problems)}. Give the model, --width, "
            "--classes and --data that it was trained with."
        )
    model.load_state_dict(weights)
    return model


def check_weights(path: Path | None) -> None:
    """Raise `FileError` now if there is no such file."""
    if path is not None and not path.is_file():
        raise FileError(f"--weights {path}: there is no such file. Check the path.")


def check_fit(network: Network, model: nn.Module, source: Source, metric: Metric | None) -> None:
    """Run the model once on the first test batch, and the metric where there is one.

    Raises:
        InputError: it does not take such examples, or what it gives does not fit the metric.
    """
    first: Any = next(iter(source.test()), None)
    if first is None:
        raise InputError(f"--data {source.name} has no test batches; expected at least one.")
    try:
        batch = statistics.read_batch(first).to(next(model.parameters()).device)
        if metric is not None:
            _check_classes(network, model, source, batch, metric)
            metric.measure(model, [first])
        else:
            with torch.no_grad():
                model(*batch.args, **batch.kwargs)
    except MippError:
        raise
    except Exception as error:
        shape = [tuple(tensor.shape[1:]) for tensor in batch.tensors()]
        usual = ""
        if network.name in models.names():
            spec = models.spec(network.name)
            usual = (
                f" {network.name} is made for {spec.data}, {spec.input_shape}: --data {spec.data}."
            )
        raise InputError(
            f"{network.name} does not fit the data {source.name}, whose examples are "
            f"{', '.join(map(str, shape))}: {said(error)}.{usual}"
        ) from error


def _check_classes(
    network: Network, model: nn.Module, source: Source, batch: statistics.Batch, metric: Metric
) -> None:
    """Raise `InputError` where published weights answer for other classes than the data have."""
    if not network.own_classes or metric.name != "accuracy" or source.classes is None:
        return
    with torch.no_grad():
        outputs = network.logits(model(*batch.args, **batch.kwargs)).shape[1]
    if outputs != source.classes:
        raise InputError(
            f"{network.name} with --pretrained has {outputs} outputs, and --data {source.name} "
            f"{source.classes} classes; expected the same classes in the same order. Train it on "
            "these data and give --weights FILE, or prune it without a measure: --task none."
        )


def _saved_by_mipp(path: Path) -> bool:
    if path.suffix != ".safetensors":
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False  # reading it will say what is wrong


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"


def examples(network: Network, source: Source | None, shape: str | None, seed: int) -> Any:
    """Batches of the data, or a random one of the given or usual shape."""
    if source is not None and shape is None:
        return source.test()
    if shape is not None:
        sizes = read_shape(shape)
    elif network.name in models.names():
        sizes = models.input_shape(network.name)
    elif network.input_shape is not None:
        sizes = network.input_shape
    else:
        raise InputError(
            f"the inputs of {network.name} are not known. Give the shape of one, such as "
            "--input 3,32,32, or --data."
        )
    generator = torch.Generator().manual_seed(seed)
    if network.vocabulary is not None:
        return [{"input_ids": torch.randint(network.vocabulary, (4, *sizes), generator=generator)}]
    return [torch.randn(4, *sizes, generator=generator)]


def check_shape(network: Network, model: nn.Module, batches: Any, shape: str | None) -> None:
    """Raise `InputError` if the model does not take inputs of the shape of ``--input``."""
    if shape is None:
        return
    batch = statistics.read_batch(batches[0]).to(next(model.parameters()).device)
    if why := surgery.failure(model, batch.args, batch.kwargs):
        raise InputError(
            f"--input {shape} does not fit {network.name}: {why}. Give the shape of one example, "
            "without the batch, that the model takes."
        )
