"""Pruned Hugging Face models in folders: saved, loaded, and loaded by transformers alone."""

import json
import warnings

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import mipp
from mipp.errors import FileError, InputError
from mipp.integrations.transformers import from_pretrained, save_pretrained
from mipp.integrations.transformers_record import FILE
from mipp.origin import plans_of
from tests.integrations.transformers.models import CASES, llama, mixtral, transformers

pytestmark = [
    # T5 holds numbers of heads that its forward does not read
    pytest.mark.filterwarnings("ignore:.*as wide as something that was pruned"),
    pytest.mark.filterwarnings("ignore:.*is no ordinary checkpoint"),
]
FAILS = (RuntimeError, ValueError)


def widths(model, batch, *, heads, ragged=False):
    """Half of the neurons in each layer, half of the heads; or one neuron fewer in the last."""
    found = {}
    groups = mipp.plan(model, [batch], "units=99%", method="l2").summary
    for group in groups:
        if group.units_before > 16 or (heads and group.units_before <= 4):
            found[group.name] = group.units_before // 2
    if ragged:
        last = next(group.name for group in groups if group.units_before > 16)
        found[last] -= 1
    return found


def pruned(case, **how):
    model, batch = case.built(), case.batch()
    kept = widths(model, batch, **how)
    return mipp.plan(model, [batch], widths=kept, method="l2").apply(refit=False), batch


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


@pytest.mark.parametrize("name", CASES)
def test_what_a_budget_leaves_comes_back_with_the_same_logits_and_no_factory(name, tmp_path):
    case = CASES[name]
    model, batch = case.built(), case.batch()
    plan = mipp.plan(model, [batch], "macs=70%", noise=0.1)
    small = plan.apply()
    config = small.config.to_dict()
    save_pretrained(small.train(), tmp_path / "small")
    assert small.config.to_dict() == config
    back = from_pretrained(tmp_path / "small")
    assert type(back) is type(model)
    assert not back.training
    assert not torch.equal(logits(back, batch), logits(model, batch))
    assert torch.equal(logits(back, batch), logits(small.eval(), batch))
    assert mipp.original_indices(back) == mipp.original_indices(small) != {}
    assert {n: p.dtype for n, p in back.named_parameters()} == {
        n: p.dtype for n, p in small.named_parameters()
    }
    # once more, from what was loaded
    save_pretrained(back, tmp_path / "again")
    again = from_pretrained(tmp_path / "again")
    assert torch.equal(logits(again, batch), logits(small, batch))
    assert mipp.original_indices(again) == mipp.original_indices(small)
    assert plans_of(again) == plans_of(small)
    # and as one file, which has the config of the whole model
    mipp.save(again, tmp_path / "small.safetensors")
    file = mipp.load(tmp_path / "small.safetensors")
    assert torch.equal(logits(file, batch), logits(small, batch))
    assert file.config.hidden_size == model.config.hidden_size
    assert plans_of(again)[0].budget == "macs=70%"


@pytest.mark.parametrize("name", CASES)
def test_one_width_of_neurons_in_all_layers_is_an_ordinary_checkpoint(name, tmp_path):
    small, batch = pruned(CASES[name], heads=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saved = save_pretrained(small, tmp_path)
    assert saved.ordinary
    assert saved.changes
    plain = type(small).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(plain, batch), logits(small, batch))
    assert torch.equal(logits(from_pretrained(tmp_path), batch), logits(small, batch))
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert sum(np.prod(file.get_slice(n).get_shape()) for n in file.keys()) <= sum(  # noqa: SIM118
            p.numel() for p in small.parameters()
        )


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.says_heads])
def test_one_number_of_heads_in_all_layers_is_an_ordinary_checkpoint(name, tmp_path):
    small, batch = pruned(CASES[name], heads=True)
    saved = save_pretrained(small, tmp_path)
    assert saved.ordinary, saved.why
    changed = {change.name for change in saved.changes}
    assert changed & {"num_attention_heads", "num_heads"}
    plain = type(small).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(plain, batch), logits(small, batch))
    back = from_pretrained(tmp_path)
    assert back.config.to_dict() == plain.config.to_dict()
    # what transformers saves from it is an ordinary checkpoint, too
    back.save_pretrained(tmp_path / "again")
    again = type(small).from_pretrained(tmp_path / "again").eval()
    assert torch.equal(logits(again, batch), logits(small, batch))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.says_heads])
def test_heads_that_a_config_cannot_count_are_reported_and_load_with_mipp_alone(name, tmp_path):
    small, batch = pruned(CASES[name], heads=True)
    with pytest.warns(
        UserWarning, match=r"no ordinary checkpoint: \w+Config cannot say that heads"
    ):
        saved = save_pretrained(small, tmp_path)
    assert not saved.ordinary
    assert "size of a head" in saved.why
    assert "mipp.integrations.transformers.from_pretrained" in str(saved)
    # the neurons, which it can count, it does
    assert {change.name for change in saved.changes} & {
        "intermediate_size", "n_inner", "encoder_ffn_dim",
    }  # fmt: skip
    with pytest.raises(FAILS):
        type(small).from_pretrained(tmp_path)
    assert (
        "from_pretrained" in json.loads((tmp_path / "config.json").read_text())["mipp"]["load_with"]
    )
    back = from_pretrained(tmp_path)
    assert not hasattr(back.config, "mipp")
    assert torch.equal(logits(back, batch), logits(small, batch))


def test_layers_of_different_widths_are_reported_with_what_to_do(tmp_path):
    small, batch = pruned(CASES["llama"], heads=True, ragged=True)
    with pytest.warns(UserWarning, match='9 to 10 of 20.*LlamaConfig has one.*allocation="kinds"'):
        saved = save_pretrained(small, tmp_path)
    # heads have one number
    assert {c.name for c in saved.changes} == {"num_attention_heads", "num_key_value_heads"}
    with pytest.raises(FAILS):
        type(small).from_pretrained(tmp_path)
    back = from_pretrained(tmp_path)
    assert torch.equal(logits(back, batch), logits(small, batch))
    assert {layer.mlp.gate_proj.out_features for layer in back.model.layers} == {9, 10}


def test_a_number_that_the_config_refuses_is_reported_in_its_own_words(tmp_path):
    torch.manual_seed(0)
    model = llama(hidden_size=24, num_attention_heads=4, num_key_value_heads=4).eval()
    batch = CASES["llama"].batch()
    heads = [g.name for g in mipp.plan(model, [batch], "units=99%", method="l2").summary
             if g.units_before == 4]  # fmt: skip
    small = mipp.plan(model, [batch], widths=dict.fromkeys(heads, 3), method="l2").apply()
    saved = save_pretrained(small, tmp_path / "three")  # 24 is a multiple of 3
    assert saved.ordinary
    torch.manual_seed(0)
    model = llama(hidden_size=16, num_attention_heads=4, num_key_value_heads=4).eval()
    small = mipp.plan(model, [batch], widths=dict.fromkeys(heads, 3), method="l2").apply()
    with pytest.warns(UserWarning, match="not a multiple of the number .*Keep another number"):
        save_pretrained(small, tmp_path / "refused")
    back = from_pretrained(tmp_path / "refused")
    assert torch.equal(logits(back, batch), logits(small, batch))


@pytest.mark.parametrize("name", ["bert", "llama", "qwen3"])
def test_a_plan_by_kinds_is_an_ordinary_checkpoint_that_meets_its_budget(name, tmp_path):
    case = CASES[name]
    model, batch = case.built(), case.batch()
    protect = [] if case.says_heads else ["*attention*"]
    plan = mipp.plan(model, [batch], "macs=75%", noise=0.1, allocation="kinds", protect=protect)
    assert plan.after.macs <= 0.75 * plan.before.macs
    small = plan.apply()
    saved = save_pretrained(small, tmp_path)
    assert saved.ordinary, saved.why
    plain = type(small).from_pretrained(tmp_path)
    assert torch.equal(logits(plain.eval(), batch), logits(small, batch))
    # each layer keeps its own units
    kept = {plan.keep[row.name] for row in plan.summary if row.units_before > 16}
    assert len({len(units) for units in kept}) == 1 < len(kept)


def test_a_narrower_residual_stream_is_an_ordinary_checkpoint_too(tmp_path):
    case = CASES["qwen3"]
    model, batch = case.built(), case.batch()
    stream = next(g.name for g in mipp.plan(model, [batch], "units=99%", method="l2", residual=True)
                  .summary if g.units_before == 16)  # fmt: skip
    plan = mipp.plan(model, [batch], widths={stream: 12}, method="l2", residual=True)
    small = plan.apply(refit=False)
    saved = save_pretrained(small, tmp_path)
    assert [str(change) for change in saved.changes] == ["hidden_size 16 -> 12"]
    plain = type(small).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(plain, batch), logits(small, batch))


def test_experts_are_an_ordinary_checkpoint_once_they_are_together_again(tmp_path):
    torch.manual_seed(0)
    model, batch = mixtral().eval(), CASES["llama"].batch()
    apart = mipp.prepare.unstacked(model)
    plan = mipp.plan(apart, [batch], "macs=80%", method="l2", allocation="kinds")
    small = plan.apply(refit=False)
    with pytest.raises(InputError, match=r"(new|absent) in this Mixtral.*mipp\.prepare\.restacked"):
        save_pretrained(small, tmp_path)
    together = mipp.prepare.restacked(small, model)
    saved = save_pretrained(together, tmp_path)
    assert saved.ordinary
    assert [change.name for change in saved.changes] == ["intermediate_size"]
    plain = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(plain, batch), logits(together, batch))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_number_types_travel_along(dtype, tmp_path):
    case = CASES["qwen3"]
    case.built().save_pretrained(tmp_path)
    model = type(case.built()).from_pretrained(tmp_path, dtype=dtype)
    batch = case.batch()
    kept = widths(case.built(), batch, heads=True, ragged=True)
    small = mipp.plan(model, [batch], widths=kept, method="l2").apply(refit=False)
    save_pretrained(small, tmp_path)
    back = from_pretrained(tmp_path)
    assert back.dtype == dtype
    assert back.lm_head.weight is back.model.embed_tokens.weight
    assert torch.equal(logits(back, batch), logits(small, batch))
    assert from_pretrained(tmp_path, dtype=torch.float32).dtype == torch.float32


def test_layers_that_stay_in_float32_do_so_again(tmp_path):
    small, _ = pruned(CASES["t5"], heads=True, ragged=True)
    save_pretrained(small, tmp_path)
    half = from_pretrained(tmp_path, dtype=torch.float16)
    types = {name: p.dtype for name, p in half.named_parameters()}
    assert {t for name, t in types.items() if name.endswith(".wo.weight")} == {torch.float32}
    assert {t for name, t in types.items() if name.endswith(".wi.weight")} == {torch.float16}


def test_tokenizer_and_generation_config_travel_along(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "b": 2}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    model, batch = CASES["llama"].built(), CASES["llama"].batch()
    model.generation_config.max_new_tokens = 3
    model.save_pretrained(tmp_path / "whole")
    tokenizer.save_pretrained(tmp_path / "whole")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    small = mipp.plan(model, [batch], "macs=70%", noise=0.1).apply()
    save_pretrained(small, tmp_path / "from the folder")
    save_pretrained(small, tmp_path / "given", tokenizer=tokenizer)
    for folder in ("from the folder", "given"):
        back = transformers.AutoTokenizer.from_pretrained(tmp_path / folder)
        assert back("b a")["input_ids"] == [2, 1]
        assert from_pretrained(tmp_path / folder).generation_config.max_new_tokens == 3


def test_a_folder_is_whole_or_not_at_all(tmp_path, monkeypatch):
    small, batch = pruned(CASES["llama"], heads=True)
    ragged, _ = pruned(CASES["llama"], heads=True, ragged=True)
    folder = tmp_path / "folder"

    class Broken:
        def save_pretrained(self, folder):
            raise OSError("disk full")

    with pytest.raises(FileError, match="cannot be written: disk full"):
        save_pretrained(small, folder, tokenizer=Broken())
    assert list(tmp_path.iterdir()) == []
    save_pretrained(ragged, folder, max_shard_size="5KB")
    assert len(list(folder.glob("model-*"))) > 1
    assert torch.equal(logits(from_pretrained(folder), batch), logits(ragged, batch))
    with pytest.raises(FileError, match="disk full"):
        save_pretrained(small, folder, tokenizer=Broken())
    assert torch.equal(logits(from_pretrained(folder), batch), logits(ragged, batch))
    save_pretrained(small, folder)  # takes the place of the other, parts and all
    assert [file.name for file in folder.glob("model*")] == ["model.safetensors"]
    assert torch.equal(logits(from_pretrained(folder), batch), logits(small, batch))
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_whole_model_is_written_as_transformers_does(tmp_path):
    model, batch = CASES["bert"].built(), CASES["bert"].batch()
    saved = save_pretrained(model, tmp_path / "mipp")
    model.save_pretrained(tmp_path / "plain")
    assert saved.ordinary
    assert saved.changes == ()
    for folder in ("mipp", "plain"):
        back = from_pretrained(tmp_path / folder)
        assert torch.equal(logits(back, batch), logits(model, batch))


def test_models_that_cannot_be_saved_say_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"Linear of torch\.nn.*mipp\.save and mipp\.load"):
        save_pretrained(torch.nn.Linear(2, 2), tmp_path)


def test_folders_that_cannot_be_read_say_what_is_wrong(tmp_path):
    with pytest.raises(FileError, match=r"has no config\.json; expected a folder that"):
        from_pretrained(tmp_path)
    small, _ = pruned(CASES["llama"], heads=True, ragged=True)
    save_pretrained(small, tmp_path)
    text = (tmp_path / FILE).read_text()
    (tmp_path / FILE).write_text(text.replace('"format": 1', '"format": 7'))
    with pytest.raises(FileError, match="has format 7; this version of mipp reads format 1"):
        from_pretrained(tmp_path)
    (tmp_path / FILE).write_text(text[:-30])
    with pytest.raises(FileError, match=r"cannot be read: .*Restore the file from a copy"):
        from_pretrained(tmp_path)
    (tmp_path / FILE).write_text(text.replace('"axes"', '"axis"'))
    with pytest.raises(FileError, match="is damaged: axes: Field required"):
        from_pretrained(tmp_path)
    (tmp_path / FILE).write_text(text.replace("LlamaForCausalLM", "LlamaForNothing"))
    with pytest.raises(FileError, match="class 'LlamaForNothing', which"):
        from_pretrained(tmp_path)
    (tmp_path / FILE).unlink()
    with pytest.raises(FileError, match=f"no {FILE}. Copy that file from the folder that mipp"):
        from_pretrained(tmp_path)
    (tmp_path / FILE).write_text(text)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        FileError, match=r"lacks the weights model\.layers\.0\.mlp\.up_proj\.weight"
    ):
        from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileError, match="cannot be read"):
        from_pretrained(tmp_path)
