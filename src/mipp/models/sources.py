"""Models of this and other packages by name: building them, and finding the name of one.

Only registered names of known packages are built, never code that a file names.
"""

import importlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from mipp.errors import InputError
from mipp.models import registry
from mipp.origin import Source

PACKAGES = ("torchvision", "timm", "hf")
"""What may stand before the colon in the name of a source that can be built."""


def is_known(source: Source) -> bool:
    """Whether the name is one that `build_source` may build; packages may still be missing."""
    return source.package in PACKAGES or source.name in registry.names()


def build_source(source: Source) -> nn.Module:
    """The full-size model with new weights. Random numbers of the caller are not used up.

    Raises:
        InputError: A name that is not known, or arguments that do not fit.
        ImportError: The package is not installed.
    """
    builders = {"": _built_in, "torchvision": _torchvision, "timm": _timm, "hf": _hugging_face}
    build = builders.get(source.package)
    if build is None:
        raise InputError(
            f"{source.name} is code of its own, which is not run because a file says so"
        )
    with torch.random.fork_rng(devices=[]):
        try:
            return build(source)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise InputError(f"{source.name} cannot be built: {error}") from error


def possible_sources(model: nn.Module) -> Iterator[Source]:
    """What may have built a model of torchvision, timm or transformers, pruned or not."""
    package = type(model).__module__.partition(".")[0]
    if package == "torchvision":
        yield from _of_torchvision(model)
    if package == "timm":
        yield from _of_timm(model)
    if package == "transformers" and hasattr(model, "config"):
        config: Any = model.config
        text = config.to_json_string(use_diff=False)
        yield Source(f"hf:{type(model).__name__}", {"config": json.loads(text)})


def _built_in(source: Source) -> nn.Module:
    return registry.build(source.name, **source.arguments)


def _torchvision(source: Source) -> nn.Module:
    zoo = importlib.import_module("torchvision").models
    name = source.name.partition(":")[2]
    if name not in zoo.list_models():
        raise InputError(f"torchvision has no model {name!r}")
    keywords: dict[str, Any] = {"weights": None, "weights_backbone": None} | dict(source.arguments)
    if not name.startswith(_WITH_BACKBONE):
        del keywords["weights_backbone"]
    made: nn.Module = zoo.get_model(name, **keywords)
    return made


_WITH_BACKBONE = ("deeplab", "fasterrcnn", "fcn", "fcos", "keypointrcnn", "lraspp", "maskrcnn",
                  "retinanet", "ssd")  # fmt: skip
"""Beginnings of the names of models that would fetch weights of their backbones."""


def _timm(source: Source) -> nn.Module:
    timm = importlib.import_module("timm")
    name = source.name.partition(":")[2]
    if name not in timm.list_models():  # others may be looked for on the hub
        raise InputError(f"timm has no model {name!r}")
    made: nn.Module = timm.create_model(name, pretrained=False, **source.arguments)
    return made


def _hugging_face(source: Source) -> nn.Module:
    transformers = importlib.import_module("transformers")
    name = source.name.partition(":")[2]
    kind: Any = getattr(transformers, name, None)
    known = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
    if not known:
        raise InputError(f"transformers has no model {name!r}")
    made: nn.Module = kind(kind.config_class.from_dict(dict(source.arguments["config"])))
    return made


def _of_torchvision(model: nn.Module) -> Iterator[Source]:
    """All names of the module that the class is in, with as many outputs as the model has."""
    zoo = importlib.import_module("torchvision").models
    outputs = [
        size
        for layer in model.modules()
        for size in [getattr(layer, "out_features", None) or getattr(layer, "out_channels", None)]
        if type(size) is int
    ]
    for name in zoo.list_models():
        if zoo.get_model_builder(name).__module__ == type(model).__module__:
            yield Source(f"torchvision:{name}")
            if outputs:
                yield Source(f"torchvision:{name}", {"num_classes": outputs[-1]})


def _of_timm(model: nn.Module) -> Iterator[Source]:
    """The architecture that timm has noted, with the sizes that the model has."""
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    name = config.get("architecture")
    if not isinstance(name, str):
        return
    classes = getattr(model, "num_classes", None)
    given = {"num_classes": classes} if type(classes) is int else {}
    yield Source(f"timm:{name}", given)
    first = next((p for p in model.parameters() if p.ndim == 4), None)
    if first is not None:
        yield Source(f"timm:{name}", given | {"in_chans": first.shape[1]})
