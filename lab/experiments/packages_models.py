"""Models of the packages that people prune, for `packages.py`: small, with random weights.

Each function builds a model and gives a second function, which draws a batch for it in the form
that `mipp.plan` takes. Nothing is downloaded. Packages are imported where they are used, so that
one which does not load spoils its own rows alone.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Draw = Callable[[], Any]
Built = tuple[nn.Module, Draw]


def images(*shape: int) -> Draw:
    """Batches of random images, or of volumes, of this shape."""
    return lambda: torch.randn(shape)


def tokens(vocabulary: int, **more: Draw) -> Draw:
    """Sixteen random texts of 24 tokens, as Hugging Face's tokenizers give them."""

    def draw() -> dict[str, Tensor]:
        ids = torch.randint(3, vocabulary, (16, 24))
        texts = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return texts | {name: one() for name, one in more.items()}

    return draw


# ------------------------------------------------------------------------------- timm, torchvision


def overlapping_less(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression: the best boxes that do not overlap a better one."""
    from torchvision.ops import box_iou  # noqa: PLC0415 - in an environment of its own

    left, kept = scores.argsort(descending=True), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[box_iou(boxes[best][None], boxes[left])[0] <= iou_threshold]
    return torch.stack(kept) if kept else left


def load_torchvision() -> None:
    """Imports torchvision, beside a torch without CUDA too, for which it has no compiled operators.

    Without them it does not even load, for want of two that it describes to the compiler.
    """
    try:
        import torchvision  # noqa: F401, PLC0415
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("nms", "qnms"):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", schema)
        torch.library.impl("torchvision::nms", "CPU")(overlapping_less)
        from torchvision.ops import boxes  # noqa: PLC0415

        boxes._assert_has_ops = lambda: None  # noqa: SLF001 - it has the one that is called here


def timm_model(name: str, shape: tuple[int, ...] = (8, 3, 64, 64), **options: Any) -> Built:
    """A model of timm, for eight small images."""
    import timm  # noqa: PLC0415

    return timm.create_model(name, pretrained=False, **options), images(*shape)


def torchvision_model(name: str, *shape: int, **options: Any) -> Built:
    """A model of torchvision by name."""
    from torchvision import models  # noqa: PLC0415

    return models.get_model(name, weights=None, **options), images(*shape)


def segmenter(name: str) -> Built:
    """A segmentation model of torchvision, whose outputs are a dict."""
    return torchvision_model(name, 4, 3, 64, 64, weights_backbone=None)


class Pyramid(nn.Module):
    """A detector up to where its outputs become boxes: backbone, pyramid and head."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, image: Tensor) -> Any:
        """Outputs of the head at all levels."""
        return self.head(list(self.backbone(image).values()))


def pyramid_head(kind: str) -> Built:
    """The head of RetinaNet or FCOS over the pyramid of a ResNet18."""
    from torchvision.models.detection import fcos, retinanet  # noqa: PLC0415
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone  # noqa: PLC0415

    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    )
    make = retinanet.RetinaNetHead if kind == "retinanet" else fcos.FCOSHead
    head = make(backbone.out_channels, num_anchors=1, num_classes=10)
    return Pyramid(backbone, head), images(2, 3, 128, 128)


def whole_detector() -> Built:
    """Faster R-CNN as it comes, which takes a list of images."""
    from torchvision import models  # noqa: PLC0415

    model = models.get_model(
        "fasterrcnn_mobilenet_v3_large_320_fpn", weights=None, weights_backbone=None,
        min_size=96, max_size=96, rpn_post_nms_top_n_test=16,
    )  # fmt: skip
    return model, lambda: (([torch.rand(3, 96, 96), torch.rand(3, 96, 96)],), None)


# ------------------------------------------------------------------------------------ transformers


def hugging_face(name: str, config: str, draw: Draw, **sizes: Any) -> Built:
    """A class of `transformers`, its config by name, and the sizes that make it small."""
    import transformers  # noqa: PLC0415

    return getattr(transformers, name)(getattr(transformers, config)(**sizes)), draw


SMALL = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
}  # fmt: skip
SOUND = SMALL | {
    "conv_dim": (32,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
LLAMA = SMALL | {"vocab_size": 500, "num_key_value_heads": 2}


def whisper() -> Built:
    """Encoder and decoder; spectra of 2 x 64 frames."""
    sizes = {"d_model": 64} | {
        f"{part}_{name}": n
        for part in ("encoder", "decoder")
        for name, n in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 128))
    }
    special = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0)
    return hugging_face(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        lambda: {
            "input_features": torch.randn(8, 80, 128),
            "decoder_input_ids": torch.randint(3, 500, (8, 12)),
        },
        vocab_size=500, max_source_positions=64, max_target_positions=32,
        decoder_start_token_id=1, **special, **sizes,
    )  # fmt: skip


def adapted(*, merged: bool) -> Built:
    """A language model with low-rank adapters on its queries and values."""
    import peft  # noqa: PLC0415

    model, draw = hugging_face("LlamaForCausalLM", "LlamaConfig", tokens(500), **LLAMA)
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    wrapped = peft.get_peft_model(model, config)
    return (wrapped.merge_and_unload() if merged else wrapped), draw


# -------------------------------------------------------------- ultralytics, segmentation, medicine


def yolo(name: str) -> Built:
    """A fresh YOLO, as `ultralytics.YOLO` builds it from a description."""
    from ultralytics import YOLO  # noqa: PLC0415

    return YOLO(name).model, lambda: torch.rand(4, 3, 128, 128)


def segmentation(kind: str, encoder: str) -> Built:
    """A model of segmentation_models_pytorch, on two images."""
    import segmentation_models_pytorch as smp  # noqa: PLC0415

    return getattr(smp, kind)(encoder, encoder_weights=None, classes=3), images(2, 3, 64, 64)


def medical(kind: str, size: int = 32, **options: Any) -> Built:
    """A network of MONAI for two volumes of one channel."""
    from monai.networks import nets  # noqa: PLC0415

    model = getattr(nets, kind)(in_channels=1, out_channels=2, **options)
    return model, images(2, 1, size, size, size)


DYNAMIC = {
    "spatial_dims": 3, "kernel_size": [3] * 4, "strides": [1, 2, 2, 2],
    "upsample_kernel_size": [2] * 3, "filters": [8, 16, 32, 64], "deep_supervision": True,
}  # fmt: skip
UNETR = {
    "img_size": (32, 32, 32), "feature_size": 8, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4,
}  # fmt: skip
PLAIN_3D = {
    "spatial_dims": 3, "channels": (16, 32, 64, 128, 256), "strides": (2,) * 4, "num_res_units": 2,
}  # fmt: skip


# ----------------------------------------------------------------------------- diffusion and graphs

BLOCKS = {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8}


def noise_and_time(channels: int, **more: Draw) -> Draw:
    """Four noisy images with their time steps."""

    def draw() -> dict[str, Tensor]:
        batch = {
            "sample": torch.randn(4, channels, 32, 32),
            "timestep": torch.randint(0, 1000, (4,)),
        }
        return batch | {name: one() for name, one in more.items()}

    return draw


def diffusion(name: str, draw: Draw, **options: Any) -> Built:
    """A network of diffusers."""
    import diffusers  # noqa: PLC0415

    return getattr(diffusers, name)(**options), draw


def graph_net(name: str) -> Built:
    """Two layers over 200 nodes and 800 edges, whose tensors have no batch dimension."""
    from torch_geometric import nn as geometric  # noqa: PLC0415

    model = getattr(geometric, name)(16, 32, num_layers=2, out_channels=4)
    return model, lambda: {
        "x": torch.randn(200, 16),
        "edge_index": torch.randint(0, 200, (2, 800)),
    }


# ----------------------------------------------------------------------------------------- the list

MODELS: Mapping[str, Mapping[str, Callable[[], Built]]] = {
    "timm": {
        name: partial(timm_model, name)
        for name in ("resnet18", "convnext_atto", "efficientnet_b0", "mobilenetv3_small_050")
    }
    | {
        "vit_tiny_patch16_224": partial(timm_model, "vit_tiny_patch16_224", img_size=64),
        "resnet18, features_only": partial(timm_model, "resnet18", features_only=True),
    },
    "torchvision": {
        "resnet18": partial(torchvision_model, "resnet18", 8, 3, 64, 64),
        "mobilenet_v3_small": partial(torchvision_model, "mobilenet_v3_small", 8, 3, 64, 64),
        "r3d_18": partial(torchvision_model, "r3d_18", 2, 3, 8, 64, 64),
        "deeplabv3_mobilenet_v3_large": partial(segmenter, "deeplabv3_mobilenet_v3_large"),
        "RetinaNet's head, pyramid, resnet18": partial(pyramid_head, "retinanet"),
        "FCOS's head, pyramid, resnet18": partial(pyramid_head, "fcos"),
        "fasterrcnn_mobilenet_v3_large_320_fpn": whole_detector,
    },
    "transformers": {
        "BERT": partial(
            hugging_face, "BertForSequenceClassification", "BertConfig", tokens(500),
            vocab_size=500, **SMALL,
        ),
        "GPT-2": partial(
            hugging_face, "GPT2LMHeadModel", "GPT2Config", tokens(500),
            vocab_size=500, n_embd=64, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0,
        ),
        "Llama": partial(hugging_face, "LlamaForCausalLM", "LlamaConfig", tokens(500), **LLAMA),
        "Mamba": partial(
            hugging_face, "MambaForCausalLM", "MambaConfig", tokens(500),
            vocab_size=500, hidden_size=64, state_size=8, num_hidden_layers=2,
        ),
        "T5": partial(
            hugging_face, "T5ForConditionalGeneration", "T5Config",
            tokens(500, decoder_input_ids=lambda: torch.randint(3, 500, (16, 12))),
            vocab_size=500, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4,
        ),
        "ViT": partial(
            hugging_face, "ViTForImageClassification", "ViTConfig",
            lambda: {"pixel_values": torch.randn(8, 3, 32, 32)},
            image_size=32, patch_size=8, **SMALL,
        ),
        "SuperPoint": partial(
            hugging_face, "SuperPointForKeypointDetection", "SuperPointConfig",
            lambda: {"pixel_values": torch.rand(4, 3, 64, 64)},
        ),
        "Wav2Vec2": partial(
            hugging_face, "Wav2Vec2ForSequenceClassification", "Wav2Vec2Config",
            lambda: {"input_values": torch.randn(4, 4000)}, **SOUND,
        ),
        "WavLM": partial(
            hugging_face, "WavLMForSequenceClassification", "WavLMConfig",
            lambda: {"input_values": torch.randn(4, 4000)}, **SOUND,
        ),
        "Whisper": whisper,
    },
    "peft": {
        "Llama, LoRA": partial(adapted, merged=False),
        "Llama, LoRA merged": partial(adapted, merged=True),
    },
    "ultralytics": {
        name: partial(yolo, f"{name}.yaml") for name in ("yolov5n", "yolov8n", "yolo11n")
    },
    "segmentation_models_pytorch": {
        f"{kind}, {encoder}": partial(segmentation, kind, encoder)
        for kind, encoder in (
            ("Unet", "mobilenet_v2"), ("UnetPlusPlus", "mobilenet_v2"),
            ("DeepLabV3Plus", "resnet18"), ("FPN", "resnet18"),
        )
    },
    "monai": {
        "UNet": partial(medical, "UNet", **PLAIN_3D),
        "DynUNet": partial(medical, "DynUNet", **DYNAMIC),
        "SegResNet": partial(medical, "SegResNet", init_filters=8),
        "UNETR": partial(medical, "UNETR", **UNETR),
        "SwinUNETR": partial(medical, "SwinUNETR", 64, feature_size=12),
    },
    "diffusers": {
        "UNet2DModel": partial(
            diffusion, "UNet2DModel", noise_and_time(3), sample_size=32,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"), **BLOCKS,
        ),
        "UNet2DConditionModel": partial(
            diffusion, "UNet2DConditionModel",
            noise_and_time(4, encoder_hidden_states=lambda: torch.randn(4, 8, 32)),
            cross_attention_dim=32, attention_head_dim=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **BLOCKS,
        ),
        "AutoencoderKL": partial(
            diffusion, "AutoencoderKL", images(4, 3, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, **BLOCKS,
        ),
    },
    "torch_geometric": {
        name: partial(graph_net, name) for name in ("GCN", "GraphSAGE", "GIN", "GAT")
    },
}  # fmt: skip
