"""Models by the names that the command line takes."""

import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mipp import models, retrain
from mipp.cli.own_code import called, find, package
from mipp.cli.tasks import IMAGES, task_of_class
from mipp.errors import InputError
from mipp.options import Outputs
from mipp.origin import Source, note_source, source_of
from mipp.planning.model_outputs import picked

IMAGENET = (3, 224, 224)
HUGGING_FACE = "hf"
TEXT = 32
"""Number of tokens in the random text that a language model is traced with."""
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
OPTION = "--model"
LONGEST = ("max_position_embeddings", "n_positions", "max_seq_len")
"""Under which names configurations have the largest number of tokens."""


@dataclass(frozen=True)
class Network:
    """A model that can be built.

    Attributes:
        name: on the command line.
        make: ``make(width, classes, channels)`` builds it; None stands for the model's own.
        input_shape: of one example, where it is known.
        recipe: how it is trained from scratch.
        vocabulary: how many different ``input_ids`` a language model takes; None for others.
        longest: how many tokens a text may have, where that is known.
        trained: whether it comes with weights.
        own_classes: whether the number of its outputs comes with these.
        outputs: picks the logits from what it returns.
        task: what it is for, where the name says so; see `mipp.cli.tasks`.
        folder: in which a tokenizer may be.
        preprocess: makes the function from an image of pillow to a tensor, for models that come
            with one.
    """

    name: str
    make: Callable[[float | None, int | None, int | None], nn.Module]
    input_shape: tuple[int, ...] | None
    recipe: retrain.Recipe
    vocabulary: int | None = None
    longest: int | None = None
    trained: bool = False
    own_classes: bool = False
    outputs: Outputs | None = None
    task: str | None = None
    folder: str | None = None
    preprocess: Callable[[], Callable[[Any], torch.Tensor]] | None = None

    def build(
        self, *, width: float | None, classes: int | None, channels: int | None, seed: int
    ) -> nn.Module:
        """The model, in train mode; initial weights follow from the seed.

        Raises:
            InputError: what the user named fails, or makes something other than a module.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = called(lambda: self.make(width, classes, channels), self.name, OPTION)
        if not isinstance(model, nn.Module):
            raise InputError(
                f"{OPTION} {self.name} made a {type(model).__name__}; expected a torch.nn.Module."
            )
        if source_of(model) is None and not self.name.startswith("hf:"):
            given = {"num_classes": classes, "in_chans": channels}
            note_source(model, Source(self.name, _given(**given)))
        return model

    def logits(self, output: Any) -> Any:
        """The scores in what the model returns."""
        if self.outputs is not None:
            return picked(self.outputs, output)
        return getattr(output, "logits", output)

    def classifier(self, model: nn.Module) -> nn.Module:
        """The model as one that returns plain logits, with shared weights."""
        if self.outputs is None and not self.name.startswith("hf:"):
            return model
        return Logits(model, self.logits)


class Logits(nn.Module):
    """A model that returns the logits alone, around one that returns them among other things."""

    def __init__(self, model: nn.Module, pick: Callable[[Any], Any]) -> None:
        super().__init__()
        self.model, self.pick = model, pick

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of a batch, shape ``(n, classes)``."""
        logits: torch.Tensor = self.pick(self.model(x))
        return logits


def find_network(name: str, *, pretrained: bool = False) -> Network:
    """The network that ``--model`` names. Imports what it needs; builds nothing yet.

    Args:
        name: as on the command line.
        pretrained: whether it gets the weights that its package publishes.

    Raises:
        InputError: no such network, or a package that is not installed.
    """
    kind, separator, rest = name.partition(":")
    if pretrained and kind not in _WITH_WEIGHTS:
        raise InputError(
            f"--pretrained was given with {OPTION} {name}; expected torchvision:NAME or timm:NAME, "
            "whose packages publish weights. Give --weights FILE; hf:FOLDER has its own."
        )
    if name in models.names():
        return _built_in(name)
    if not separator:
        close = difflib.get_close_matches(name, models.names(), n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise InputError(
            f"{OPTION} {name} is not known; expected one of {', '.join(models.names())}, "
            f"torchvision:NAME, timm:NAME, {HUGGING_FACE}:FOLDER or package.module:factory.{hint}"
        )
    if kind in _WITH_WEIGHTS:
        found = _WITH_WEIGHTS[kind](name, rest, pretrained)
        return replace(found, task=IMAGES, trained=pretrained, own_classes=pretrained)
    return _hugging_face(name, rest) if kind == HUGGING_FACE else _factory(name, rest)


def _built_in(name: str) -> Network:
    spec = models.spec(name)

    def make(width: float | None, classes: int | None, channels: int | None) -> nn.Module:
        factor = 1.0 if width is None else width
        return models.build(name, width=factor, num_classes=classes, in_channels=channels)

    return Network(name, make, spec.input_shape, retrain.recipe_for(name), task=IMAGES)


def _torchvision(name: str, rest: str, pretrained: bool) -> Network:
    zoo = package("torchvision", f"{OPTION} {name}").models
    _among(name, rest, zoo.list_models())

    def make(width: float | None, classes: int | None, _channels: int | None) -> Any:
        _no_width(name, width)
        weights = "DEFAULT" if pretrained else None
        return zoo.get_model(rest, weights=weights, **_given(num_classes=classes))

    def preprocess() -> Any:
        return zoo.get_model_weights(rest).DEFAULT.transforms()

    return Network(
        name, make, IMAGENET, retrain.Recipe(), preprocess=preprocess if pretrained else None
    )


def _timm(name: str, rest: str, pretrained: bool) -> Network:
    timm = package("timm", f"{OPTION} {name}")
    _among(name, rest, timm.list_models())

    def make(width: float | None, classes: int | None, channels: int | None) -> Any:
        _no_width(name, width)
        options = _given(num_classes=classes, in_chans=channels)
        return timm.create_model(rest, pretrained=pretrained, **options)

    def preprocess() -> Any:
        published = timm.get_pretrained_cfg(rest).to_dict()
        return timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=published))

    return Network(
        name, make, IMAGENET, retrain.Recipe(), preprocess=preprocess if pretrained else None
    )


_WITH_WEIGHTS = {"torchvision": _torchvision, "timm": _timm}
"""Packages that publish weights of their networks."""


def _hugging_face(name: str, rest: str) -> Network:
    """The class that the config names, else one for images; without weights, random ones."""
    transformers = package("transformers", f"{OPTION} {name}")
    place = Path(rest)
    file = place if place.suffix == ".json" else place / "config.json"
    config = _read_config(file, name) if file.is_file() else {}
    named = next(iter(config.get("architectures") or ()), "")
    kind = getattr(transformers, named, transformers.AutoModelForImageClassification)
    weights = [path for pattern in WEIGHTS for path in file.parent.glob(pattern)]
    bare = place.suffix == ".json" or (file.is_file() and not weights)

    def make(width: float | None, classes: int | None, _channels: int | None) -> Any:
        _no_width(name, width)
        options = _given(num_labels=classes)
        if not bare and (place / "mipp.json").is_file():
            from mipp.integrations.transformers import from_pretrained

            return from_pretrained(place, **options)
        if not bare:
            return kind.from_pretrained(rest, **options)
        made = transformers.AutoConfig.from_pretrained(str(file), **options)
        return kind(made) if hasattr(transformers, named) else kind.from_config(made)

    texts = getattr(kind, "main_input_name", "pixel_values") == "input_ids"
    side = config.get("image_size", IMAGENET[1])
    sides = tuple(side) if isinstance(side, list) else (side, side)
    shape = (TEXT,) if texts else (config.get("num_channels", IMAGENET[0]), *sides)
    folder = file.parent

    def preprocess() -> Any:
        processor = transformers.AutoImageProcessor.from_pretrained(str(folder))
        return lambda image: processor(image, return_tensors="pt")["pixel_values"][0]

    return Network(
        name, make, shape, retrain.Recipe(),
        vocabulary=config.get("vocab_size") if texts else None,
        longest=next((config[key] for key in LONGEST if key in config), None) if texts else None,
        trained=not bare,
        task=task_of_class(getattr(kind, "__name__", "")),
        folder=str(folder),
        preprocess=preprocess if (folder / "preprocessor_config.json").is_file() else None,
    )  # fmt: skip


def _read_config(file: Path, name: str) -> dict[str, Any]:
    try:
        read = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{OPTION} {name}: {file} cannot be read as JSON: {error}.") from error
    if not isinstance(read, dict):
        raise InputError(f"{OPTION} {name}: {file} holds a {type(read).__name__}; expected a dict.")
    return read


def _factory(name: str, _rest: str) -> Network:
    found = find(name, OPTION)
    if not callable(found):
        raise InputError(
            f"{OPTION} {name} is a {type(found).__name__}; expected a function or class that "
            "makes a torch.nn.Module without arguments, or a module."
        )

    def make(width: float | None, _classes: int | None, _channels: int | None) -> Any:
        _no_width(name, width)
        return found if isinstance(found, nn.Module) else found()

    return Network(name, make, None, retrain.Recipe())


def _among(name: str, wanted: str, known: list[str]) -> None:
    if wanted not in known:
        close = difflib.get_close_matches(wanted, known, n=5)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise InputError(f"{OPTION} {name}: there is none of that name among {len(known)}.{hint}")


def _no_width(name: str, width: float | None) -> None:
    if width is not None:
        raise InputError(
            f"--width {width} was given with {OPTION} {name}; only built-in networks have a width."
        )


def _given(**options: int | None) -> dict[str, int]:
    return {key: value for key, value in options.items() if value is not None}
