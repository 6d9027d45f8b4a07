"""Models by the names that the command line takes, and what users name in code of their own.

The latter is ``package.module:attribute``, from the current folder or installed.
"""

import difflib
import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from mipp import models, retrain
from mipp.errors import InputError, MippError
from mipp.options import Outputs
from mipp.origin import Source, note_source, source_of
from mipp.planning.model_outputs import picked

T = TypeVar("T")
IMAGENET = (3, 224, 224)
TEXT = 32
"""Number of tokens in the random text that a language model is traced with."""
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
OPTION = "--model"


@dataclass(frozen=True)
class Network:
    """A model that can be built.

    Attributes:
        name: on the command line.
        make: ``make(width, classes, channels)`` builds it; None stands for the model's own.
        input_shape: of one example, where it is known.
        recipe: how it is trained from scratch.
        vocabulary: how many different ``input_ids`` a language model takes; None for others.
        trained: whether it comes with weights.
        outputs: picks the logits from what it returns.
    """

    name: str
    make: Callable[[float | None, int | None, int | None], nn.Module]
    input_shape: tuple[int, ...] | None
    recipe: retrain.Recipe
    vocabulary: int | None = None
    trained: bool = False
    outputs: Outputs | None = None

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

    def classifier(self, model: nn.Module) -> nn.Module:
        """The model as one that returns plain logits, with shared weights."""
        if self.outputs is not None:
            return Logits(model, partial(picked, self.outputs))
        return Logits(model, attrgetter("logits")) if self.name.startswith("hf:") else model


class Logits(nn.Module):
    """A model that returns the logits alone, around one that returns them among other things."""

    def __init__(self, model: nn.Module, pick: Callable[[Any], Any]) -> None:
        super().__init__()
        self.model, self.pick = model, pick

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of a batch, shape ``(n, classes)``."""
        logits: torch.Tensor = self.pick(self.model(x))
        return logits


def find_network(name: str) -> Network:
    """The network that ``--model`` names. Imports what it needs; builds nothing yet.

    Raises:
        InputError: no such network, or a package that is not installed.
    """
    if name in models.names():
        return _built_in(name)
    kind, separator, rest = name.partition(":")
    if not separator:
        close = difflib.get_close_matches(name, models.names(), n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise InputError(
            f"{OPTION} {name} is not known; expected one of {', '.join(models.names())}, "
            f"torchvision:NAME, timm:NAME, hf:FOLDER or package.module:factory.{hint}"
        )
    finders = {"torchvision": _torchvision, "timm": _timm, "hf": _hugging_face}
    return finders.get(kind, _factory)(name, rest)


def _built_in(name: str) -> Network:
    spec = models.spec(name)

    def make(width: float | None, classes: int | None, channels: int | None) -> nn.Module:
        factor = 1.0 if width is None else width
        return models.build(name, width=factor, num_classes=classes, in_channels=channels)

    return Network(name, make, spec.input_shape, retrain.recipe_for(name))


def _torchvision(name: str, rest: str) -> Network:
    zoo = package("torchvision", f"{OPTION} {name}").models
    _among(name, rest, zoo.list_models())

    def make(width: float | None, classes: int | None, _channels: int | None) -> Any:
        _no_width(name, width)
        return zoo.get_model(rest, weights=None, **_given(num_classes=classes))

    return Network(name, make, IMAGENET, retrain.Recipe())


def _timm(name: str, rest: str) -> Network:
    timm = package("timm", f"{OPTION} {name}")
    _among(name, rest, timm.list_models())

    def make(width: float | None, classes: int | None, channels: int | None) -> Any:
        _no_width(name, width)
        options = _given(num_classes=classes, in_chans=channels)
        return timm.create_model(rest, pretrained=False, **options)

    return Network(name, make, IMAGENET, retrain.Recipe())


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
    vocabulary = config.get("vocab_size") if texts else None
    return Network(name, make, shape, retrain.Recipe(), vocabulary, trained=not bare)


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


def find(reference: str, option: str) -> Any:
    """The object that ``package.module:attribute`` names.

    Raises:
        InputError: no such module or attribute, or the module fails while it is imported.
    """
    module_name, _, path = reference.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:  # a console script, unlike python -m, does not look here by itself
        sys.path.insert(0, here)
    if not module_name or not path:
        raise InputError(f"{option} {reference}: expected package.module:name.")
    try:
        found = importlib.import_module(module_name)
    except Exception as error:
        failed = InputError(
            f"{option} {reference}: importing {module_name} failed with {said(error)}. It is "
            f"looked for in the current folder ({here}) and among the installed packages."
        )
        name = error.name if isinstance(error, ModuleNotFoundError) else None
        if name is not None and f"{module_name}.".startswith(f"{name}."):
            raise failed from None  # a wrong name is wrong usage; what fails in a module is not
        raise failed from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise InputError(
                f"{option} {reference}: {module_name} has no {path}. It has "
                f"{', '.join(n for n in vars(found) if not n.startswith('_')) or 'nothing'}."
            )
        found = getattr(found, name)
    return found


def called(make: Callable[[], T], reference: str, option: str) -> T:
    """What the user's code returns; its errors become an `InputError` that names it."""
    try:
        return make()
    except MippError:
        raise
    except Exception as error:
        raise InputError(
            f"{option} {reference} failed with {said(error)}. Run again with --debug to see where."
        ) from error


def package(name: str, option: str) -> Any:
    """An optional package; raises `InputError` if it is not installed."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # a build for another version of torch fails with a RuntimeError
        raise InputError(
            f"{option} needs the package {name}, which cannot be imported: {said(error)}. "
            f"Install it (pip install {name}), in a version that fits this torch."
        ) from error


def said(error: Exception) -> str:
    """An error of other people's code, as part of a sentence."""
    return f"{type(error).__name__}: {error}".rstrip(" .")
