"""Prune, then quantize to int8 with torchao: accuracy on digits and size, before and after.

An MLP is quantized by weights alone and dynamically, a CNN statically (PT2E). Needs torchao. Run it
as ``python examples/quantize_pruned.py``; it takes less than a minute on one core.
"""

import copy
import io

import torch
from torch import nn
from torchao.quantization import (
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    quantize_,
)
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)

import mipp


def size(model: nn.Module) -> int:
    """Bytes of the weights as torch saves them."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return len(file.getvalue())


def accuracy(model: nn.Module, batches: mipp.data.Batches) -> float:
    """Share of the images that are classified right."""
    with torch.no_grad():
        right = [(model(x).argmax(1) == y).float() for x, y in batches]
    return float(torch.cat(right).mean())


def statically(model: nn.Module, batches: list[torch.Tensor]) -> nn.Module:
    """Convolutions and linear layers in int8, with ranges from the batches."""
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (batches[0],), dynamic_shapes=({0: batch},)).module()
    quantizer = X86InductorQuantizer()
    quantizer.set_global(get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(program, quantizer)
    for x in batches:
        prepared(x)
    return convert_pt2e(prepared)


def main() -> None:
    """Trains, prunes, retrains and quantizes both."""
    torch.set_num_threads(1)
    train = mipp.data.Batches(mipp.data.load("digits"), 64, shuffle=True)
    test = mipp.data.Batches(mipp.data.load("digits", "test"), 359)
    images = [x for x, _ in train]
    torch.manual_seed(0)
    mlp = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(),
        nn.Linear(256, 10),
    )  # fmt: skip
    cnn = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    for name, model in {"MLP": mlp, "CNN": cnn}.items():
        recipe = mipp.retrain.Recipe(epochs=10, peak_lr=0.05)
        mipp.retrain.train(model, train, recipe, progress=False)
        small = mipp.plan(model.eval(), images, "params=25%", round_to=8, progress=False).apply()
        mipp.retrain.train(small, train, recipe, progress=False)
        made = {"whole": model, "pruned": small.eval()}
        if name == "MLP":
            for words, config in {
                "pruned, int8 weights": Int8WeightOnlyConfig(),
                "pruned, int8 dynamic": Int8DynamicActivationInt8WeightConfig(),
            }.items():
                made[words] = copy.deepcopy(small)
                quantize_(made[words], config)
        else:
            made["pruned, int8 static"] = statically(small, images[:-1])
        for words, each in made.items():
            # the static program keeps float weights, too, until a backend folds them
            bytes_left = "-" if "static" in words else f"{size(each):,}"
            print(f"{name} {words:22} {accuracy(each, test):8.2%} {bytes_left:>10} bytes")


if __name__ == "__main__":
    main()
