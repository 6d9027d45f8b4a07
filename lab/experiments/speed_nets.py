"""Nets of `lab.experiments.speed`, with random weights and examples, and how each is pruned."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lab.experiments import large
from mipp import models

Batch = dict[str, Tensor] | tuple[Tensor, Tensor]
"""Keyword arguments, or images and labels."""


@dataclass(frozen=True)
class Net:
    """A net and its examples.

    Attributes:
        label: In tables.
        make: The model, on the CPU.
        batches: Its calibration examples.
        budget: Of `mipp.plan`.
        options: Of `mipp.plan`, for every method.
        noise: Of the default method.
        roots: Ends of the names of the layers whose outputs Torch-Pruning may remove; empty for all
            but the last.
        share: Of the channels that Torch-Pruning removes.
    """

    label: str
    make: Callable[[], nn.Module]
    batches: Callable[[], list[Batch]]
    budget: str
    options: Mapping[str, Any] = field(default_factory=dict)
    noise: float | str = "fisher"
    roots: tuple[str, ...] = ()
    share: float = 0.3


def _built_in(name: str, label: str, samples: int, batch: int) -> Net:
    def batches() -> list[Batch]:
        generator = torch.Generator().manual_seed(0)
        shape = models.input_shape(name)
        made: list[Batch] = []
        for start in range(0, samples, batch):
            n = min(batch, samples - start)
            x = torch.randn(n, *shape, generator=generator)
            made.append((x, torch.randint(0, 10, (n,), generator=generator)))
        return made

    return Net(label, lambda: models.build(name, seed=0), batches, "macs=50%")


def _transformer(
    label: str,
    model: Callable[[], nn.Module],
    batches: Callable[[], list[Batch]],
    root: str,
    memory: str = "1GiB",
) -> Net:
    """Half of the neurons of each MLP; heads stay."""

    def make() -> nn.Module:
        torch.manual_seed(0)
        return model()

    options = {"protect": large.HEADS, "allocation": "uniform", "memory": memory}
    return Net(label, make, batches, "units=50%", options, 0.1, (root,), 0.5)


def _texts(vocabulary: int, n: int, length: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(3, vocabulary, (n, length), generator=generator).split(large.BATCH)
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in texts]


def _pictures(n: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(n, 3, 224, 224, generator=generator).split(large.BATCH)
    return [{"pixel_values": x} for x in images]


NETS = {
    "lenet5": _built_in("lenet5", "LeNet5", 2560, 256),
    "vgg16": _built_in("vgg16", "VGG16", 2560, 128),
    "resnet18": _built_in("resnet18", "ResNet-18", 2560, 128),
    "resnet50": _built_in("resnet50_imagenet", "ResNet-50 at 224", 512, 16),
    "vit-b16": _transformer(
        "ViT-B/16, 128 images", lambda: large.vit(2)[0], lambda: _pictures(128), "mlp.fc1"
    ),
    "bert-base": _transformer(
        "BERT-base, 256 texts",
        lambda: large.bert(2)[0],
        lambda: _texts(1000, 256, 128),
        "intermediate.dense",
    ),
    "llama-1.1b": _transformer(
        "1.1 B, 16 texts",
        lambda: large.grouped_queries(2)[0],
        lambda: _texts(32000, 16, 512),
        "mlp.gate_proj",
        "4GiB",
    ),
    "llama-2-blocks": _transformer(
        "two blocks of it, 128 texts",
        lambda: large.llama(2, 2000),
        lambda: _texts(2000, 128, 512),
        "mlp.gate_proj",
        "4GiB",
    ),
}


def outputs_of(model: nn.Module, batch: Batch) -> Tensor:
    """The logits."""
    if isinstance(batch, dict):
        return model(**batch).logits
    return model(batch[0])


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy to the labels, to the tokens themselves, or to random classes."""
    logits = outputs_of(model, batch)
    if not isinstance(batch, dict):
        labels = batch[1]
    elif "input_ids" in batch:
        logits, labels = logits.flatten(0, 1), batch["input_ids"].flatten()
    else:
        labels = torch.arange(len(logits)) % logits.shape[1]
    return nn.functional.cross_entropy(logits.float(), labels)
