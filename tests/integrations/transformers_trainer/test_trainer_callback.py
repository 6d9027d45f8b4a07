"""Pruning in rounds while Hugging Face's Trainer trains: in place, resumable, in two processes."""

import pytest
import torch
from safetensors.torch import save_file

import mipp
from mipp.errors import FileError, InputError
from tests.integrations.processes import run_two

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed: make integrations")

from mipp.integrations.transformers_trainer import PruneCallback  # noqa: E402

IDS = torch.randint(3, 50, (32, 8), generator=torch.Generator().manual_seed(0))
TEXTS = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": IDS[:, 0] % 3}
DATA = [{name: value[number] for name, value in TEXTS.items()} for number in range(len(IDS))]


def build():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=32, max_position_embeddings=16, num_labels=3,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def trainer(folder, steps=10, **settings):
    args = transformers.TrainingArguments(
        str(folder), per_device_train_batch_size=8, max_steps=steps, use_cpu=True, report_to=[],
        logging_strategy="no", disable_tqdm=True, learning_rate=1e-2,
        **{"save_strategy": "no"} | settings,
    )  # fmt: skip
    return transformers.Trainer(build(), args, train_dataset=DATA)


def pruning(run, **settings):
    settings = {"rounds": 2, "every": 4, "protect": ["*classifier*"]} | settings
    prune = PruneCallback(run, [TEXTS], "macs=50%", **settings)
    run.add_callback(prune)
    return prune


def test_the_budget_is_met_and_a_resumed_run_ends_with_the_same_weights(tmp_path):
    straight = trainer(tmp_path, save_strategy="steps", save_steps=3)
    prune = pruning(straight)
    parameters = list(straight.model.parameters())
    straight.train()
    assert [entry["at"] for entry in prune.rounds.history] == [4, 8]
    plan = mipp.plan(build(), [TEXTS], "units=100%", method="l2")
    assert prune.rounds.history[-1]["macs"] <= 0.5 * plan.before.macs
    assert list(map(id, straight.model.parameters())) == list(map(id, parameters))
    state = straight.optimizer.state
    assert all(state[p]["exp_avg"].shape == p.shape and state[p]["step"] == 10 for p in parameters)

    # one before the first round, one between the rounds, one after the last
    for step, rounds in ((3, 0), (6, 1), (9, 2)):
        folder = tmp_path / f"checkpoint-{step}"
        run = trainer(tmp_path / "other", ignore_data_skip=False)
        resumed = pruning(run)
        if rounds:
            resumed.restore(folder)
        assert resumed.rounds.done == rounds
        run.train(resume_from_checkpoint=str(folder))
        assert resumed.rounds.history == prune.rounds.history
        assert mipp.original_indices(run.model) == mipp.original_indices(straight.model)
        for mine, its in zip(run.model.parameters(), straight.model.parameters(), strict=True):
            torch.testing.assert_close(mine, its, rtol=0, atol=0)


def test_rounds_after_epochs(tmp_path):
    run = trainer(tmp_path, steps=12)
    prune = pruning(run, unit="epoch", every=1)
    run.train()
    assert [entry["at"] for entry in prune.rounds.history] == [1, 2]


def test_the_model_learns_from_the_unpruned_one_while_it_is_trained(tmp_path):
    teacher = build()
    with torch.no_grad():
        teacher.classifier.bias.copy_(torch.tensor([9.0, 0.0, 0.0]))
    run = trainer(tmp_path, steps=30)
    pruning(run, teacher=teacher, distill_weight=1.0)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    run.train()
    answers = run.model.eval()(**TEXTS)
    # the teacher always says the first class, whatever the labels are
    assert bool((answers.logits.argmax(1) == 0).all())
    assert all(value.equal(before[name]) for name, value in teacher.state_dict().items())
    assert not run.model._forward_hooks


def in_two_processes(rank, folder):
    run = trainer(folder)
    prune = PruneCallback(
        run,
        # each process measures its own half
        [{name: value[rank::2] for name, value in TEXTS.items()}],
        "macs=50%",
        rounds=2,
        every=3,
        protect=["*classifier*"],
    )
    run.add_callback(prune)
    run.train()
    assert type(run.model_wrapped).__name__ == "DistributedDataParallel"
    assert [entry["at"] for entry in prune.rounds.history] == [3, 6]
    save_file(dict(run.model.state_dict()), folder / f"{rank}.safetensors")


@pytest.mark.slow
def test_two_processes_keep_the_same_units_and_weights(tmp_path):
    first, second = run_two(in_two_processes, tmp_path)
    assert first["bert.encoder.layer.0.intermediate.dense.weight"].shape[0] < 32
    assert all(value.equal(second[name]) for name, value in first.items())


def test_the_best_checkpoint_cannot_be_loaded_at_the_end(tmp_path):
    run = trainer(tmp_path)
    run.args.load_best_model_at_end = True
    with pytest.raises(InputError, match=r"load_best_model_at_end=True .* of an earlier round"):
        pruning(run)


def test_parameters_that_are_split_are_refused(tmp_path):
    run = trainer(tmp_path)
    run.is_fsdp_enabled = True
    with pytest.raises(InputError, match=r"FSDP or DeepSpeed .* a single device or DDP"):
        pruning(run)


def test_a_unit_that_is_none(tmp_path):
    with pytest.raises(InputError, match=r"unit='batch' was given; expected 'step' or 'epoch'"):
        pruning(trainer(tmp_path), unit="batch")


def test_a_folder_without_a_trainer_state(tmp_path):
    with pytest.raises(FileError, match=r"trainer_state.json cannot be read: .* Trainer has"):
        pruning(trainer(tmp_path)).restore(tmp_path)


def test_a_checkpoint_before_the_first_round(tmp_path):
    run = trainer(tmp_path, steps=2, save_strategy="steps", save_steps=2)
    prune = pruning(run)
    run.train()
    with pytest.raises(FileError, match=r"no rounds of pruning.*Resume from it without restore"):
        prune.restore(tmp_path / "checkpoint-2")
