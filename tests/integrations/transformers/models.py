"""Hugging Face's models, tiny and with random weights, and batches for them."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SMALL = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 16}
TEXT = SMALL | {"vocab_size": 30, "max_position_embeddings": 32, "intermediate_size": 20}
MARKS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER = TEXT | MARKS | {"num_key_value_heads": 2}


def bert():
    return transformers.BertForMaskedLM(transformers.BertConfig(**TEXT))


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=30, n_positions=32, n_layer=2, n_head=4, n_embd=16, bos_token_id=1,
        eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def llama(**changes):
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**DECODER | changes))


def qwen2():
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**DECODER))


def qwen3():
    config = transformers.Qwen3Config(**DECODER, head_dim=4, tie_word_embeddings=True)
    return transformers.Qwen3ForCausalLM(config)


def phi3():
    return transformers.Phi3ForCausalLM(transformers.Phi3Config(**DECODER))


def mixtral():
    config = transformers.MixtralConfig(**DECODER, num_local_experts=4, num_experts_per_tok=2)
    return transformers.MixtralForCausalLM(config)


def vit():
    config = transformers.ViTConfig(**SMALL, intermediate_size=20, image_size=8, patch_size=4)
    return transformers.ViTForImageClassification(config)


def t5():
    config = transformers.T5Config(
        vocab_size=30, d_model=16, d_kv=4, d_ff=20, num_layers=2, num_heads=4, pad_token_id=0,
        eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config)


def whisper():
    config = transformers.WhisperConfig(
        vocab_size=30, num_mel_bins=4, d_model=16, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=20,
        decoder_ffn_dim=24, max_source_positions=10, max_target_positions=32,
        decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None, **MARKS,
    )  # fmt: skip
    return transformers.WhisperForConditionalGeneration(config)


def _texts():
    return {"input_ids": torch.randint(3, 30, (32, 8))}


def _images():
    return {"pixel_values": torch.randn(32, 3, 8, 8)}


def _sounds():
    ids = torch.randint(3, 30, (32, 6))
    return {"input_features": torch.randn(32, 4, 20), "decoder_input_ids": ids}


def _pairs():
    return _texts() | {"decoder_input_ids": torch.randint(3, 30, (32, 6))}


@dataclass(frozen=True)
class Case:
    """A model, what it takes, and what its config can say once heads or neurons are gone."""

    make: Any
    draw: Any
    says_heads: bool

    def built(self):
        torch.manual_seed(0)
        model = self.make().eval()
        with torch.no_grad():  # as they are drawn, the weights hardly change what goes through
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(8)
        return model

    def batch(self):
        torch.manual_seed(1)
        return self.draw()


CASES = {
    "bert": Case(bert, _texts, False),
    "gpt2": Case(gpt2, _texts, False),
    "llama": Case(llama, _texts, True),
    "qwen2": Case(qwen2, _texts, True),
    "qwen3": Case(qwen3, _texts, True),
    "phi3": Case(phi3, _texts, True),
    "vit": Case(vit, _images, True),
    "t5": Case(t5, _pairs, True),
    "whisper": Case(whisper, _sounds, False),
}
GENERATE = ("gpt2", "llama", "qwen2", "qwen3", "phi3", "t5", "whisper")
