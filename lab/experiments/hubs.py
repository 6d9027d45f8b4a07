"""Models of torchvision and timm as they come: what is pruned, and whether the small one is right.

    pip install torchvision timm    # to go with the torch that is installed
    python -m lab run hubs

Each model is built at its own size with random weights (no zeros, such as those that some start
residual branches with, which would hide mistakes), traced on two images, and loses 30 % and then
70 % of the units of every group, at random. In float64, on three images, the sliced model has to
compute what the masked one computes, and to have the parameters that were told. *Left*: parameters
at 70 %. *Stay*: layers that cannot be pruned, besides the outputs, by the reason why.
"""

import re
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import mipp
from lab.experiment import Experiment, Key, Rows, Settings
from lab.tables import TextTable
from mipp import graph, statistics, surgery
from mipp.graph import CostModel
from mipp.planning import prunable_graph

SHARES = (0.3, 0.7)
TOLERANCE = 1e-8

MODELS = {
    "torchvision": (
        "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s",
        "googlenet", "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2",
        "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnet50", "resnext50_32x4d",
        "shufflenet_v2_x0_5", "squeezenet1_0", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_16",
        "deeplabv3_mobilenet_v3_large", "fcn_resnet50", "lraspp_mobilenet_v3_large", "r3d_18",
    ),
    "timm": (
        "botnet26t_256", "cait_xxs24_224", "coat_tiny", "coatnet_nano_rw_224", "convmixer_768_32",
        "convnext_atto", "convnextv2_atto", "crossvit_tiny_240", "cspresnet50", "darknet53",
        "davit_tiny", "deit_tiny_distilled_patch16_224", "densenet121", "dla34", "dpn48b",
        "eca_resnet33ts", "edgenext_xx_small", "efficientformer_l1", "efficientnet_lite0",
        "efficientvit_b0", "efficientvit_m0", "ese_vovnet19b_dw", "eva02_tiny_patch14_224",
        "fastvit_t8", "fbnetc_100", "focalnet_tiny_srf", "gcresnet33ts", "gernet_s",
        "ghostnet_050", "gmlp_ti16_224", "halonet26t", "hardcorenas_a", "hiera_tiny_224",
        "hrnet_w18_small", "inception_next_atto", "inception_v4", "lambda_resnet26t", "lcnet_050",
        "levit_128s", "mambaout_femto", "maxvit_nano_rw_256", "mixer_s32_224", "mnasnet_small",
        "mobilenetv3_small_050", "mobilenetv4_conv_small", "mobilevit_xxs", "nest_tiny",
        "nfnet_l0", "pit_ti_224", "poolformer_s12", "pvt_v2_b0", "rdnet_tiny", "regnetx_002",
        "regnety_002", "repghostnet_050", "repvgg_a0", "res2net50_26w_4s", "resmlp_12_224",
        "resnest14d", "resnet18", "resnetv2_50", "rexnet_100", "selecsls42", "semnasnet_075",
        "sequencer2d_s", "seresnet18", "skresnet18", "starnet_s1", "swin_tiny_patch4_window7_224",
        "tinynet_e", "tiny_vit_5m_224", "tnt_s_patch16_224", "tresnet_m", "twins_svt_small",
        "vgg11_bn", "visformer_tiny", "vit_relpos_small_patch16_224", "vit_tiny_patch16_224",
        "volo_d1_224", "xception41", "xcit_nano_12_p16_224",
    ),
}  # fmt: skip

KINDS = {
    "norm": r"layer_norm|one number over all|norm group|it is tied to channels that have to stay",
    "grouped": r"groups=\d",
    "code": r"Error: |constant in the code|their place|spells its size|in proportion|in full",
}
"""Reasons in short: what is normalised together; grouped convolutions; shapes that the code spells.
Everything else is *other*."""


def build(library: str, name: str) -> tuple[nn.Module, Tensor]:
    """The model, random where it would be zero, and two images."""
    torch.manual_seed(0)
    size: tuple[int, ...] = (3, 224, 224)
    if library == "torchvision":
        import torchvision  # noqa: PLC0415 - no dependency

        more: dict[str, Any] = {}
        if name in ("googlenet", "inception_v3"):
            more, size = {"init_weights": False}, (3, 299, 299)
        elif name.startswith(("deeplab", "fcn", "lraspp")):
            more = {"weights_backbone": None}
        elif name == "r3d_18":
            size = (3, 4, 64, 64)
        model = torchvision.models.get_model(name, weights=None, **more)
    else:
        import timm  # noqa: PLC0415 - no dependency

        model = timm.create_model(name, pretrained=False)
        size = model.default_cfg["input_size"]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval(), torch.randn(2, *size)


def tensors(made: Any) -> list[Tensor]:
    """All tensors of an output."""
    return [leaf for leaf in pytree.tree_leaves(made) if isinstance(leaf, Tensor)]


def without_units(traced: Any, share: float) -> Any:
    """A random choice in which every group loses this share of its units."""
    rng, model = np.random.default_rng(0), CostModel(traced)
    for group in traced.groups:
        wanted, gone = min(max(1, round(share * group.n_units)), group.n_units - 1), 0
        for unit in rng.permutation(group.n_units):
            if gone < wanted and not model.empties(group.index, int(unit)):
                model.remove(group.index, int(unit))
                gone += 1
    return model.keep


@torch.no_grad()
def cut(model: nn.Module, traced: Any, share: float, batch: Tensor) -> dict[str, float]:
    """What is left, and how far sliced and masked are apart relative to the largest output."""
    keep = without_units(traced, share)
    small = surgery.slice_graph(model, traced, surgery.kept_indices(traced, keep))
    masked = surgery.mask_model(model, traced, keep)
    apart = [
        (one - other).abs().max() / other.abs().max().clamp_min(1e-12)
        for one, other in zip(tensors(small(batch)), tensors(masked(batch)), strict=True)
    ]
    most = float(torch.stack(apart).max())  # NaN where one is
    params = sum(parameter.numel() for parameter in small.parameters())
    whole = sum(parameter.numel() for parameter in model.parameters())
    return {
        "apart": most,
        "left": params / whole,
        "told": graph.cost(traced, keep).params - params,
    }


def measure(key: Key, _settings: Settings) -> dict[str, Any]:
    """One row."""
    model, batch = build(key["library"], key["model"])
    found: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters())}
    started = time.process_time()
    try:
        traced = prunable_graph(model, statistics.read_batches([batch], None))
    except mipp.MippError as error:
        return found | {"refusal": str(error)}
    found["seconds"] = time.process_time() - started
    found["groups"] = len(traced.groups)
    reasons = [r.reason for r in traced.refused if "part of the model's output" not in r.reason]
    found["reasons"] = dict(Counter(kind_of(reason) for reason in reasons))
    images = torch.randn(3, *batch.shape[1:], dtype=torch.float64)
    for share in SHARES:
        found[f"{share:.0%}"] = cut(model.double(), traced, share, images)
    return found


def kind_of(reason: str) -> str:
    """The reason in a word."""
    return next((kind for kind, text in KINDS.items() if re.search(text, reason)), "other")


def right(row: dict[str, Any]) -> bool:
    """Whether masked and sliced agree, and the parameters are those that were told."""
    cuts = [row[f"{share:.0%}"] for share in SHARES]
    return all(found["apart"] < TOLERANCE and found["told"] == 0 for found in cuts)


def tables(rows: Rows) -> Iterator[TextTable | str]:
    """One line for each model."""
    lines = []
    for row in rows:
        name = f"{row['library']}: {row['model']}"
        millions = f"{row['parameters'] / 1e6:.1f}"
        if "refusal" in row:
            reason = re.search(r"channels: (.*?) \(", row["refusal"])
            lines.append([name, millions, "-", reason[1] if reason else "all", "-", "refused"])
            continue
        stay = ", ".join(f"{kind} {n}" for kind, n in sorted(row["reasons"].items()))
        left = f"{row['70%']['left']:.0%}"
        lines.append(
            [name, millions, str(row["groups"]), stay, left, "yes" if right(row) else "WRONG"]
        )
    header = ("model", "parameters (M)", "groups", "stay", "left", "masked = sliced")
    yield TextTable("", header, lines)
    sound = [row for row in rows if "refusal" not in row]
    yield (
        f"{len(rows)} models: {sum(map(right, sound))} pruned and right, "
        f"{len(rows) - len(sound)} refused, {sum(not right(row) for row in sound)} wrong"
    )


EXPERIMENT = Experiment(
    name="hubs",
    title="Models of torchvision and timm: what is pruned, and whether the small one is right",
    items=lambda _: (
        {"library": library, "model": name} for library, names in MODELS.items() for name in names
    ),
    measure=measure,
    tables=tables,
    threads=1,
)
