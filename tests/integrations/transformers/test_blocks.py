"""Layers of transformers that go: generate, caches, and folders that are ordinary checkpoints."""

import pytest
import torch

import mipp
from mipp.integrations.transformers import from_pretrained, save_pretrained
from mipp.removable import removable_blocks
from mipp.statistics import read_batch
from tests.integrations.transformers import models

transformers = pytest.importorskip("transformers", reason="transformers is not installed")


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=30, n_positions=32, n_layer=4, n_head=4, n_embd=16, bos_token_id=1,
        eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def bert():
    config = transformers.BertConfig(**models.TEXT | {"num_hidden_layers": 4})
    return transformers.BertForMaskedLM(config)


def llama():
    return models.llama(num_hidden_layers=4)


def gemma3():
    """Of its six layers the last sees everything; the others look back four tokens."""
    config = transformers.Gemma3TextConfig(
        **models.DECODER | {"num_hidden_layers": 6}, head_dim=4, sliding_window=4
    )
    return transformers.Gemma3ForCausalLM(config)


def bart():
    config = transformers.BartConfig(
        vocab_size=30, d_model=16, encoder_layers=3, decoder_layers=3, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=20, decoder_ffn_dim=20, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, forced_eos_token_id=2,
    )  # fmt: skip
    return transformers.BartForConditionalGeneration(config)


def swin():
    config = transformers.SwinConfig(
        image_size=32, patch_size=2, embed_dim=8, depths=[2, 4], num_heads=[2, 4], window_size=4
    )
    return transformers.SwinForImageClassification(config)


def ids(n=24, length=10):
    return torch.randint(3, 30, (n, length), generator=torch.Generator().manual_seed(0))


def batch_for(model):
    if model.config.model_type == "swin":
        return {"pixel_values": torch.randn(4, 3, 32, 32)}
    if model.config.model_type == "bart":
        return {"input_ids": ids(), "decoder_input_ids": ids(length=6)}
    return {"input_ids": ids()}


MODELS = [gpt2, bert, llama, gemma3, bart]


def pruned(make, **options):
    model = make().eval()
    batch = batch_for(model)
    return model, batch, mipp.plan(
        model, [batch], "units=60%", granularity="block", progress=False, **options
    )  # fmt: skip


@pytest.mark.parametrize("make", MODELS)
def test_the_folder_is_an_ordinary_checkpoint_of_the_same_model(make, tmp_path):
    model, batch, plan = pruned(make, score_samples=8)
    depth = model.config.to_dict()
    small = plan.apply()
    assert model.config.to_dict() == depth
    saved = save_pretrained(small, tmp_path)
    assert saved.ordinary
    again = type(small).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = small(**batch).logits
        torch.testing.assert_close(again(**batch).logits, expected)
        torch.testing.assert_close(from_pretrained(tmp_path)(**batch).logits, expected)
    mipp.save(small, tmp_path / "small.safetensors")
    loaded = [mipp.load(model, tmp_path / "small.safetensors")]
    if make is not gemma3:  # whose config makes no tables for a kind of layer that is gone
        loaded.append(mipp.load(tmp_path / "small.safetensors"))
    with torch.no_grad():
        for one in loaded:
            torch.testing.assert_close(one.eval()(**batch).logits, expected)


@pytest.mark.parametrize("make", [gpt2, llama, gemma3, bart])
def test_generate_with_a_cache_gives_what_it_gives_without(make):
    _, _, plan = pruned(make, score_samples=8)
    small = plan.apply(refit=False)
    text = ids(2, 7)
    given = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    cached = small.generate(text, use_cache=True, **given)
    assert torch.equal(cached, small.generate(text, use_cache=False, **given))


def test_kinds_of_layers_follow_those_that_stay():
    """Also in the config that caches are made from."""
    model, _, _ = pruned(gemma3, score_samples=8)
    kinds = list(model.config.layer_types)
    plan = mipp.plan(
        model, [{"input_ids": ids()}], "units=5", granularity="block", refit=None,
        protect=[f"model.layers.{n}" for n in range(1, 6)],
    )  # fmt: skip
    small = plan.apply()
    assert small.config.num_hidden_layers == 5
    assert list(small.config.layer_types) == kinds[1:]
    assert [layer.self_attn.layer_idx for layer in small.model.layers] == list(range(5))


def test_what_follows_from_the_place_of_a_layer_no_config_can_say(tmp_path):
    """Every second layer of Swin shifts its windows; without one the next would not."""
    model, batch, _ = pruned(swin, score_samples=4)
    last = "swin.encoder.layers.1.blocks."
    plan = mipp.plan(
        model, [batch], "units=5", granularity="block", refit=None,
        blocks=["swin.encoder.layers.0.blocks.*", f"{last}*"],
        protect=[f"{last}{n}" for n in (1, 2, 3)] + ["swin.encoder.layers.0"],
    )  # fmt: skip
    small = plan.apply()
    with pytest.raises(mipp.errors.InputError, match=r"shift_size is 2, and 0 by the config"):
        save_pretrained(small, tmp_path)
    mipp.save(small, tmp_path / "small.safetensors")
    again = mipp.load(model, tmp_path / "small.safetensors")
    torch.testing.assert_close(again(**batch).logits, small(**batch).logits)


def test_what_t5_computes_in_its_first_layers_for_all_others_stays():
    config = transformers.T5Config(
        vocab_size=30, d_model=16, d_kv=4, d_ff=20, num_layers=3, num_heads=4, pad_token_id=0,
        eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config).eval()
    batch = {"input_ids": ids(), "decoder_input_ids": ids(length=5)}
    found = removable_blocks(model, [read_batch(batch)])
    refused = {refusal.name: refusal.reason for refusal in found.refused}
    assert "what else it gives" in refused["encoder.block.0"]
    assert "what else it gives" in refused["decoder.block.0"]
    assert "encoder.block.2" in [block.name for block in found.blocks]


def test_widths_and_blocks_go_into_one_folder(tmp_path):
    _, batch, plan = pruned(llama, score_samples=8)
    small = plan.apply(refit=False)
    both = mipp.prune(small, [batch], {"*mlp*": "units=50%"}, method="l2", allocation="kinds",
                      refit=False)  # fmt: skip
    saved = save_pretrained(both, tmp_path)
    assert saved.ordinary
    again = type(both).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(**batch).logits, both(**batch).logits)
    assert mipp.surgery.recorded_blocks(from_pretrained(tmp_path)) == mipp.surgery.recorded_blocks(
        both
    )
