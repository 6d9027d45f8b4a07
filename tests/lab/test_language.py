"""Causal language models: their text, their quality, blocks that go, and one small measurement."""

import math
from dataclasses import replace

import pytest
import torch

from lab.experiments import antiberty, language, language_depth, language_iglm, language_llama
from lab.experiments import language_nets as nets
from lab.experiments import language_text as text

transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

SMALL = {
    **language_llama.SHAPE,
    "vocab_size": 16,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
}


def llama(**changes):
    return language_llama.fresh(0, SMALL | changes).eval()


def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=33, n_positions=language_iglm.LENGTH, n_embd=32, n_layer=3, n_head=4,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).eval()


def windows(n=24, length=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return nets.of_windows(torch.randint(16, (n, length), generator=generator))


@pytest.fixture
def library(tmp_path):
    """A standard library of seven modules, one of them with tests."""
    files = {
        "abc.py": 50, "ast.py": 60, "bisect.py": 70, "cmd.py": 80, "copy.py": 5000,
        "json/__init__.py": 90, "json/decoder.py": 40, "unittest/case.py": 30,
        "unittest/test/test_case.py": 999, "encodings/cp037.py": 99, "site-packages/x.py": 9,
        "of_somebody.py": 9,
    }  # fmt: skip
    for name, size in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("#" * size)
    return tmp_path


def test_the_text_is_the_library_s_without_tests_and_tables(library):
    found = text.modules(library)
    assert list(found) == ["abc", "ast", "bisect", "cmd", "copy", "json", "unittest"]
    assert [file.name for file in found["json"]] == ["__init__.py", "decoder.py"]
    assert [file.name for file in found["unittest"]] == ["case.py"]


def test_whole_short_modules_are_held_out(library):
    train, held_out = text.split(text.modules(library), test_bytes=800)
    assert sorted(map(len, held_out)) == [30, 50, 60, 70, 80]
    assert sorted(map(len, train)) == [40, 90, 5000]
    train, held_out = text.split(text.modules(library), test_bytes=100)
    assert sum(map(len, held_out)) < 100 + 80
    assert len(train) + len(held_out) == 8


def test_text_is_spelled_without_loss_and_ends_with_a_token_of_its_own():
    import tokenizers

    texts = ["def name(self):\n    return 'ä'\n", "import os\n"]
    words = text.vocabulary(texts, 300)
    tokens = text.encoded(texts, words)
    ends = (tokens == 0).nonzero().flatten().tolist()
    assert len(ends) == 2
    assert ends[1] == len(tokens) - 1
    read = tokenizers.Tokenizer.from_str(words)
    assert read.decode(tokens[: ends[0]].tolist()) == texts[0]
    assert text.vocabulary(texts, 300) == words


def test_windows_are_pieces_of_the_text():
    tokens = torch.arange(23, dtype=torch.int16)
    assert text.windows(tokens, 5).flatten().tolist() == list(range(20))
    drawn = text.drawn(tokens, 5, 40, seed=1)
    assert (drawn - drawn[:, :1] == torch.arange(5)).all()
    assert drawn.max() < 23
    assert torch.equal(drawn, text.drawn(tokens, 5, 40, seed=1))
    assert not torch.equal(drawn, text.drawn(tokens, 5, 40, seed=2))


def test_chains_are_spelled_as_iglm_takes_them():
    (batch,) = language_iglm.batches(["CAR", "EVQLW"], 2)
    spelled = [language_iglm.VOCABULARY[i] for i in batch["input_ids"][0, :7]]
    assert spelled == ["[HEAVY]", "[HUMAN]", "C", "A", "R", "[SEP]", "[PAD]"]
    assert batch["attention_mask"].sum(1).tolist() == [6, 8]
    labels = batch["labels"][0]
    assert labels[:6].tolist() == [-100, -100, *batch["input_ids"][0, 2:5].tolist(), -100]
    assert nets.asked(batch).sum(1).tolist() == [3, 5]
    assert len(language_iglm.VOCABULARY) == 33


def test_quality_is_the_loss_of_transformers_and_does_not_see_padding():
    model = gpt2()
    (batch,) = language_iglm.batches(["CAR", "EVQLW"], 2)
    found = nets.quality(model, [batch])
    assert found["nats"] == pytest.approx(model(**batch).loss.item(), rel=1e-5)
    assert found["tokens"] == 8
    answers = [nets.log_probabilities(model, batch)]
    assert nets.quality(model, [batch], answers)["divergence"] == pytest.approx(0, abs=1e-6)
    other = [torch.full_like(answers[0], -math.log(33))]
    away = nets.quality(model, [batch], other)["divergence"]
    assert away == pytest.approx(float(-math.log(33) - answers[0].mean()), rel=1e-4)
    apart = nets.quality(model, language_iglm.batches(["CAR", "EVQLW"], 1))
    assert apart["nats"] == pytest.approx(found["nats"], rel=1e-5)


def test_who_knows_nothing_has_the_entropy_of_the_vocabulary():
    model = llama()
    model.get_output_embeddings().weight.data.zero_()
    assert nets.quality(model, windows())["nats"] == pytest.approx(math.log(16), rel=1e-5)
    halves = nets.of_windows(torch.tensor([[0, 1], [0, 2]]))
    assert nets.by_frequency(halves) == pytest.approx(math.log(2), rel=1e-6)


def test_training_in_parts_is_training_in_one(tmp_path, monkeypatch):
    monkeypatch.setattr(language_llama, "EVERY", 2)
    monkeypatch.setattr(language_llama, "LENGTH", 8)
    tokens = torch.randint(16, (500,), generator=torch.Generator().manual_seed(0)).short()
    whole, killed, resumed = llama(), llama(), llama()
    language_llama.train(whole, tokens, tmp_path / "a", tmp_path / "whole.safetensors", 6)
    kept = tmp_path / "b"

    def die(*arguments, seed):
        if seed == 1_000_000 + 4:
            raise KeyboardInterrupt
        return drawn(*arguments, seed=seed)

    drawn = text.drawn
    monkeypatch.setattr(text, "drawn", die)
    with pytest.raises(KeyboardInterrupt):
        language_llama.train(killed, tokens, kept, tmp_path / "b.safetensors", 6)
    monkeypatch.setattr(text, "drawn", drawn)
    assert kept.exists()
    language_llama.train(resumed, tokens, kept, tmp_path / "b.safetensors", 6)
    assert not kept.exists()
    for mine, theirs in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    log = language_llama._metadata(tmp_path / "b.safetensors")
    assert log["steps"] == "6"


def test_the_block_that_does_nothing_goes_first():
    model = llama()
    idle = language_depth.blocks(model)[2]
    for layer in (idle.mlp.down_proj, idle.self_attn.o_proj):
        layer.weight.data.zero_()
    order, divergences = language_depth.order_of(model, windows(), 2)
    assert order[0] == 2
    assert divergences[0] == pytest.approx(0, abs=1e-6)
    assert divergences[1] > 1e-4
    whole, small = nets.quality(model, windows()), language_depth.without(model, [2])
    assert nets.quality(small, windows())["nats"] == pytest.approx(whole["nats"], rel=1e-5)
    assert len(language_depth.blocks(model)) == 4
    assert language_depth.macs(small, windows()) < language_depth.macs(model, windows())


@pytest.mark.parametrize("make", [llama, gpt2])
def test_the_refit_makes_the_stream_more_like_the_whole_net_s(make):
    model = make()
    data = windows(48) if make is llama else language_iglm.batches(["CARDYWGQ"] * 9 + ["EVQ"], 5)
    before = {name: p.clone() for name, p in model.named_parameters()}

    def error(small):
        streams = []
        for net in (model, small):
            taken = {}
            last = language_depth.blocks(net)[-1]
            handle = last.register_forward_hook(language_depth._keeping(taken, "stream"))
            nets.log_probabilities(net, data[0])
            handle.remove()
            streams.append(taken["stream"])
        counts = data[0].get("attention_mask", torch.ones_like(data[0]["input_ids"])).bool()
        return float((streams[0] - streams[1])[counts].square().mean())

    fitted = language_depth.refitted(model, [1], data)
    assert error(fitted) < 0.8 * error(language_depth.without(model, [1]))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert not any(m._forward_hooks for m in fitted.modules())


def test_a_fit_that_can_be_exact_is(monkeypatch):
    """A block whose MLP is linear in the one before it is taken over by it."""
    monkeypatch.setattr(language_depth, "RIDGE", 1e-9)
    model = llama(num_hidden_layers=2)
    first, second = language_depth.blocks(model)
    second.self_attn.o_proj.weight.data.zero_()
    second.mlp.down_proj.weight.data.zero_()
    small = language_depth.without(model, [1])
    change = torch.randn_like(first.mlp.down_proj.weight) * 0.1
    language_depth.blocks(small)[0].mlp.down_proj.weight.data += change
    language_depth._fit(
        small, language_depth.blocks(small)[0], model, language_depth.blocks(model)[1], windows(64)
    )
    torch.testing.assert_close(
        language_depth.blocks(small)[0].mlp.down_proj.weight,
        first.mlp.down_proj.weight,
        atol=1e-3,
        rtol=1e-3,
    )


def test_budgets_name_what_stays():
    assert language.budget_of("37.5%") == {"*mlp*": "units=62.5%", "*attn*": "units=62.5%"}
    assert antiberty.IGNORED == -100


def test_one_net_is_measured_and_shown(monkeypatch):
    data = windows(64)
    small = nets.Subject.of("llama", llama(), windows(16, seed=1), {"python": "3"})
    monkeypatch.setattr(nets.Subject, "calibration", lambda self, seed: data)
    monkeypatch.setattr(language, "subject", lambda name: small)
    monkeypatch.setattr(language, "TUNE", replace(language.TUNE, passes=1))
    keys = [
        {"work": "unpruned", "net": "llama"},
        {"work": "pruned", "net": "llama", "method": "mipp", "seed": 0},
        {"work": "tuned", "net": "llama", "method": "l2", "seed": 0},
        {"work": "depth", "net": "llama", "seed": 0},
    ]
    rows = [key | language.measure(key, {"seeds": 1}) for key in keys]
    _, cut, after, depth = rows
    units = [sum(cut[removed]["widths"].values()) for removed in language.REMOVED]
    # 4 layers of 24 neurons and 4 pairs of heads
    assert units == [100, 84, 70, 56]
    assert after["50%"]["tuned"]["divergence"] < after["50%"]["refit"]["divergence"]
    assert len(depth["order"]) == 2
    assert depth["2"]["units"]["macs"] <= depth["2"]["macs"] + 1e-9
    heading, *tables = list(language.tables(rows))
    assert "perplexity" in heading
    assert [len(table.rows) for table in tables] == [1, 1, 1, 1, 2]
    assert tuple(tables[0].columns[2:6]) == language.REMOVED


def test_a_net_without_the_record_of_the_whole_one_still_has_tables():
    quality = {"divergence": 0.1, "nats": 1.0}
    shares = {share: {"refit": quality, "none": quality} for share in language.REMOVED}
    row = {"net": "llama", "work": "pruned", "method": "mipp", "plan_seconds": 1.0, **shares}
    titles = [table.title for table in language.tables([row])]
    assert len(titles) == 2
    assert all("divergence" in title for title in titles)
