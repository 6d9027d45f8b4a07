"""What goes together with a unit, as mipp and as Torch-Pruning have it, in the same terms."""

import warnings
from typing import Any

import torch
from torch import nn

from mipp.records import ChannelGraph

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)

Coupled = dict[tuple[str, str], set[int]]
"""Path of a module, or of a parameter of its own, and ``in`` or ``out`` (or the dimension) -> the
indices that go."""

FAILS = {
    "Llama, grouped queries": "TypeError in what is repeated",
    "multi-query attention": "TypeError, the same",
    "normalizing flow": "TypeError where the input is cut in parts",
    "recurrent encoder and decoder": "TypeError on what a recurrent layer puts out",
    "YOLO, split by an attribute": "IndexError on the split",
}
"""Entries that Torch-Pruning 1.6.1 builds no graph of."""

OTHERWISE = {
    ("T5, bias of every head", "blocks.0.attention.q"): "takes heads of the bias for features",
    ("Swin, shifted windows", "windows.0.inner.q"): "takes heads of the table for features",
    ("Swin, shifted windows", "windows.1.inner.q"): "takes heads of the table for features",
    ("GPT, tied embeddings", "blocks.0.attention.c_attn"): "indices of the split run past the end",
    ("GPT, tied embeddings", "blocks.1.attention.c_attn"): "indices of the split run past the end",
    ("mixture of experts, one weight", "blocks.1.w12"): "indices of the chunk run past the end",
    ("gMLP", "blocks.0.fc1"): "ties features to weights over places",
    ("gMLP", "blocks.1.fc1"): "ties features to weights over places",
    ("Conformer", "point1"): "indices behind glu run past the end",
    ("non-local block", "v"): "ties values to queries and keys",
    ("ResNet, option A", "0.0"): "channels come first, where the padding puts them in the middle",
    ("YOLO, chunk", "1.first.0"): "indices behind the chunk run past the end",
    ("functional convolution, module reuse", "first"): "takes the last dimension of a bare kernel",
    ("super-resolution, pixel shuffle", "2"): "does not follow the pixel shuffle",
    ("denoiser, pixel unshuffle", "0"): "does not follow the pixel unshuffle",
    ("MobileNetV1", "2.0"): "does not know of multipliers of depthwise convolutions",
    ("ShuffleNetV2", "0.0"): "ties all channels of the shuffle",
    ("ShuffleNetV2, nn.ChannelShuffle", "0.0"): "does not follow the shuffle",
    ("tied autoencoder", "encode"): "does not follow a weight that is read transposed",
    ("graph attention", "first"): "ties features to the one output of another layer",
    ("ResNeXt", "1.narrow.0"): "cuts inputs of the grouped convolution, and leaves its outputs",
    ("hooks, buffers, frozen weights", "body.0"): "does not see frozen layers",
    ("hooks, buffers, frozen weights", "body.2"): "leaves buffers as they are",
}
"""(Entry, group) -> what Torch-Pruning does there that mipp does not."""


def _depthwise(module: nn.Module) -> bool:
    return getattr(module, "groups", 1) == getattr(module, "in_channels", 0) > 1


def _side(module: nn.Module, tensor: str, dim: int) -> str:
    """Whether a dimension of a layer's tensor is of its outputs or of its inputs."""
    if tensor == "bias" or _depthwise(module) or not isinstance(module, (*LAYERS, nn.Embedding)):
        return "out"
    return (
        ("in", "out")[dim]
        if isinstance(module, (nn.Embedding, *TRANSPOSED))
        else ("out", "in")[dim]
    )


def ours(model: nn.Module, graph: ChannelGraph, group: int, unit: int) -> Coupled:
    """What goes with a unit in mipp."""
    found: Coupled = {}
    for key, axis in graph.axes.items():
        gone = ((axis.group == group) & (axis.unit == unit)).nonzero()[0].tolist()
        if gone:
            path, _, tensor = key.tensor.rpartition(".")
            module = model.get_submodule(path)
            if type(module).__module__.startswith("torch.nn.modules."):
                where = path, _side(module, tensor, key.dim)
            else:
                where = key.tensor, str(key.dim)
            found.setdefault(where, set()).update(gone)
    return found


def theirs(graph: Any, model: nn.Module, producer: str, outputs: list[int]) -> Coupled:
    """What goes with these outputs of a layer in Torch-Pruning."""
    module = model.get_submodule(producer)
    start = graph.get_pruner_of_module(module).prune_out_channels
    names = {id(m): name for name, m in model.named_modules()}
    names |= {id(p): name for name, p in model.named_parameters()}
    found: Coupled = {}
    if module not in graph.module2node:
        return found
    for step, indices in graph.get_pruning_group(module, start, outputs):
        target = step.target.module
        if id(target) not in names:
            continue  # an operation
        if isinstance(target, nn.Parameter):
            where = names[id(target)], str(target.dim() - 1)
        else:
            reads = isinstance(target, LAYERS) and not graph.is_out_channel_pruning_fn(step.handler)
            where = names[id(target)], "in" if reads and not _depthwise(target) else "out"
            if not any(True for _ in target.parameters()):
                continue
        found.setdefault(where, set()).update(indices)
    return found


def dependency_graph(library: Any, model: nn.Module, args: Any, kwargs: Any) -> Any:
    """Torch-Pruning's graph of a model."""
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells of every bare parameter
        return library.DependencyGraph().build_dependency(model, example_inputs=kwargs or args)


def producing_layer(model: nn.Module, graph: ChannelGraph, group: int) -> str | None:
    """A linear layer or convolution that makes a group, from where Torch-Pruning can start."""
    for key in graph.groups[group].producers:
        path, _, tensor = key.tensor.rpartition(".")
        if tensor == "weight" and isinstance(model.get_submodule(path), LAYERS):
            return path
    return None
