"""Pruned models quantized by torchao: weights alone, dynamically, and statically (PT2E)."""

import copy
import io

import pytest
import torch
from torch import nn

import mipp

pytest.importorskip("torchao", reason="torchao is not installed: make integrations")

from torchao.quantization import (
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    quantize_,
)

pytestmark = [
    # torch's own modules, which torchao imports when it is used
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torchao"),
    pytest.mark.filterwarnings("ignore::UserWarning:torchao"),
]


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(32, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 5)
    )


def transformer():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))


def cnn():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip


def size(model):
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return len(file.getvalue())


def moved(model, other, x):
    with torch.no_grad():
        return float((other(x) - model(x)).norm() / model(x).norm())


CONFIGS = [Int8WeightOnlyConfig(), Int8DynamicActivationInt8WeightConfig()]


@pytest.mark.parametrize("config", CONFIGS, ids=["weights", "dynamic"])
@pytest.mark.parametrize("round_to", [1, 8])
def test_a_pruned_mlp_in_int8(config, round_to):
    x = torch.randn(256, 32)
    small = mipp.prune(mlp().eval(), [x], "macs=50%", round_to=round_to)
    quantized = copy.deepcopy(small)
    quantize_(quantized, config)
    assert type(quantized[0].weight).__name__ == "Int8Tensor"
    assert quantized[0].weight.shape == small[0].weight.shape
    assert 0 < moved(small, quantized, x) < 0.03
    assert size(quantized) < 0.6 * size(small)


@pytest.mark.parametrize("config", CONFIGS, ids=["weights", "dynamic"])
def test_a_pruned_transformer_in_int8(config):
    x = torch.randn(64, 6, 32)
    model = transformer().train()  # in evaluation mode it takes a kernel for float weights alone
    plan = mipp.plan(model, [x], "macs=60%", method="l2")
    small = plan.apply()
    assert small[0].layers[0].linear1.out_features < 64
    quantized = copy.deepcopy(small)

    def plain(module, name):
        return type(module) is nn.Linear  # not those inside of MultiheadAttention

    quantize_(quantized, config, filter_fn=plain)
    assert type(quantized[0].layers[0].linear1.weight).__name__ == "Int8Tensor"
    assert 0 < moved(small, quantized, x) < 0.03


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what the imports import
def test_a_pruned_cnn_with_static_ranges():
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    x = torch.randn(32, 3, 16, 16)
    small = mipp.prune(cnn().eval(), [x], "macs=50%", round_to=8)
    assert small[3].out_channels % 8 == 0
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(small, (x[:2],), dynamic_shapes=shapes).module()
    quantizer = X86InductorQuantizer()
    quantizer.set_global(get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(program, quantizer)
    prepared(x)
    converted = convert_pt2e(prepared)
    targets = [str(node.target) for node in converted.graph.nodes]
    assert sum("dequantize_per_channel" in target for target in targets) == 3
    assert 0 < moved(small, converted, x) < 0.05


def test_quantized_weights_are_not_saved(tmp_path):
    small = mipp.prune(mlp().eval(), [torch.randn(256, 32)], "macs=50%")
    mipp.save(small, tmp_path / "small.safetensors")
    quantize_(small, Int8WeightOnlyConfig())
    with pytest.raises(mipp.errors.InputError, match=r"'0.weight' is of type Int8Tensor.*before"):
        mipp.save(small, tmp_path / "quantized.safetensors")
    # what was saved before is read and quantized again
    again = mipp.load(mlp, tmp_path / "small.safetensors").eval()
    quantize_(again, Int8WeightOnlyConfig())
    x = torch.randn(8, 32)
    with torch.no_grad():
        assert again(x).equal(small(x))
