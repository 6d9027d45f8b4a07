"""Pruned Hugging Face models at work: generation with a cache, Trainer, adapters."""

import pytest
import torch

import mipp
from mipp.errors import InputError
from mipp.integrations.transformers import from_pretrained, save_pretrained
from tests.integrations.transformers.models import CASES, GENERATE, transformers

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*as wide as something that was pruned"),
    pytest.mark.filterwarnings("ignore:.*is no ordinary checkpoint"),
    # peft reads a name of transformers that is on its way out
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


def pruned(name, budget="macs=70%", **options):
    model, batch = CASES[name].built(), CASES[name].batch()
    return mipp.plan(model, [batch], budget, noise=0.1, **options).apply(), batch


@pytest.mark.parametrize("name", GENERATE)
def test_generation_with_a_cache_gives_the_same_as_without(name, tmp_path):
    small, batch = pruned(name)
    save_pretrained(small, tmp_path)
    back = from_pretrained(tmp_path)
    inputs = {key: value[:4] for key, value in batch.items() if not key.startswith("decoder")}
    if "input_ids" in inputs:
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    made = [
        model.generate(**inputs, max_length=20, do_sample=False, use_cache=cached)
        for model in (small, back)
        for cached in (True, False)
    ]
    assert all(torch.equal(made[0], one) for one in made[1:])
    assert len(made[0].unique()) >= 3


def test_trainer_trains_a_pruned_model_and_its_checkpoint_goes_on(tmp_path):
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    small, batch = pruned("llama", budget="macs=60%")
    examples = [{"input_ids": ids, "labels": ids} for ids in batch["input_ids"]]

    def trainer(model, steps):
        arguments = transformers.TrainingArguments(
            str(tmp_path / "runs"), max_steps=steps, per_device_train_batch_size=8, save_steps=1,
            report_to=[], disable_tqdm=True, use_cpu=True, learning_rate=1e-2, seed=0,
            dataloader_pin_memory=False,
        )  # fmt: skip
        return transformers.Trainer(model, arguments, train_dataset=examples)

    save_pretrained(small, tmp_path / "small")
    model = from_pretrained(tmp_path / "small")
    run = trainer(model, 1)
    run.train()
    with torch.no_grad():
        after = model.eval()(**batch).logits
        assert not torch.equal(after, small(**batch).logits)
    # steps go on from the checkpoint in the run's folder
    again = from_pretrained(tmp_path / "small")
    longer = trainer(again, 2)
    longer.train(resume_from_checkpoint=str(tmp_path / "runs" / "checkpoint-1"))
    assert longer.state.global_step == 2
    save_pretrained(again, tmp_path / "trained")
    back = from_pretrained(tmp_path / "trained")
    with torch.no_grad():
        assert torch.equal(back(**batch).logits, again.eval()(**batch).logits)


def peft():
    return pytest.importorskip("peft", reason="peft is not installed")


def with_lora(model, targets):
    torch.manual_seed(2)
    config = peft().LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    return peft().get_peft_model(model, config)


@pytest.mark.parametrize(
    ("name", "targets"),
    [("llama", ["q_proj", "down_proj"]), ("bert", ["query", "dense"]), ("gpt2", ["c_attn"])],
)
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
def test_a_pruned_model_takes_an_adapter_and_merges_it(name, targets, tmp_path):
    small, batch = pruned(name)
    save_pretrained(small, tmp_path / "small")
    adapted = with_lora(from_pretrained(tmp_path / "small"), targets)
    labels = {"labels": batch["input_ids"]}
    adapted(**batch, **labels).loss.backward()
    trained = {n for n, p in adapted.named_parameters() if p.grad is not None}
    assert trained
    assert all("lora" in name for name in trained)
    with torch.no_grad():
        expected = adapted.eval()(**batch).logits
        assert not torch.allclose(expected, small(**batch).logits, atol=1e-3)
        with pytest.raises(InputError, match=r"adapter inside.*merge_and_unload\(\)"):
            save_pretrained(adapted, tmp_path / "adapted")
        adapted.save_pretrained(tmp_path / "adapter")
        back = peft().PeftModel.from_pretrained(
            from_pretrained(tmp_path / "small"), tmp_path / "adapter"
        )
        torch.testing.assert_close(back.eval()(**batch).logits, expected)
        merged = adapted.merge_and_unload()
        torch.testing.assert_close(merged(**batch).logits, expected, atol=1e-4, rtol=1e-4)
        save_pretrained(merged, tmp_path / "merged")
        again = from_pretrained(tmp_path / "merged")
        assert torch.equal(again(**batch).logits, merged(**batch).logits)


def test_a_merged_model_is_pruned_as_any_other(tmp_path):
    model, batch = CASES["llama"].built(), CASES["llama"].batch()
    merged = with_lora(model, ["q_proj", "v_proj", "gate_proj"]).merge_and_unload()
    plan = mipp.plan(merged, [batch], "macs=70%", noise=0.1)
    small = plan.apply(refit=False)
    same = mipp.plan(CASES["llama"].built(), [batch], "macs=70%", noise=0.1)
    assert [row.name for row in plan.summary] == [row.name for row in same.summary]
    with torch.no_grad():
        torch.testing.assert_close(
            small(**batch).logits, plan.mask()(**batch).logits, atol=1e-4, rtol=1e-4
        )
        save_pretrained(small, tmp_path)
        assert torch.equal(from_pretrained(tmp_path)(**batch).logits, small(**batch).logits)
