"""Data in files: texts, JSON lines, arrays and images; metrics and tasks."""

import json
import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

NETS = """
import torch
from torch import nn

class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 12), nn.Linear(2, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, left, right):
        return self.head(torch.relu(self.one(left) + self.two(right)))

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))

class Pixels(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
        )

def norm(model, batches):
    return sum(model(x).norm() for x, _ in batches)

def words(model, batches):
    return "good"
number = 3
"""
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "dog", "who", "ran", "to", "house"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a module ``file_nets``."""
    (tmp_path / "file_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    sys.modules.pop("file_nets", None)


@pytest.fixture(scope="session")
def language(tmp_path_factory):
    """A folder with a Llama and a GPT-2, a BERT, their tokenizer and a text."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from tokenizers import Tokenizer, models, pre_tokenizers

    home = tmp_path_factory.mktemp("language")
    special = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    names = ("pad_token", "cls_token", "sep_token", "mask_token", "unk_token")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, **dict(zip(names, special, strict=True))
    )
    small = {
        "vocab_size": len(vocabulary), "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 24, "max_position_embeddings": 64,
    }  # fmt: skip
    torch.manual_seed(0)
    made = {
        "llama": transformers.LlamaForCausalLM(transformers.LlamaConfig(**small)),
        "gpt2": transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=len(vocabulary), n_positions=64, n_embd=16, n_layer=2, n_head=2,
                bos_token_id=1, eos_token_id=2,
            )
        ),
        "bert": transformers.BertForMaskedLM(transformers.BertConfig(**small)),
        "labels": transformers.BertForSequenceClassification(
            transformers.BertConfig(**small, num_labels=2)
        ),
    }  # fmt: skip
    for name, model in made.items():
        model.save_pretrained(home / name)
        tokenizer.save_pretrained(home / name)
    generator = np.random.default_rng(0)
    text = " ".join(generator.choice(WORDS, 2000))
    (home / "text.txt").write_text(text)
    labelled = [{"text": " ".join(generator.choice(WORDS, n)), "label": n % 2} for n in (3, 8) * 10]
    (home / "labelled.jsonl").write_text("\n".join(map(json.dumps, labelled)))
    (home / "texts.jsonl").write_text(
        "\n".join(json.dumps({"text": part}) for part in text.split(" on "))
    )
    return home


def perplexity(model, ids):
    logits = model(ids).logits
    return math.exp(F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_language_model_is_pruned_and_its_perplexity_shown(mipp, language, tmp_path, name):
    import transformers

    model = f"hf:{language / name}"
    data = ("--data", f"text:{language / 'text.txt'}", "--input", "32")
    small = tmp_path / "small.safetensors"
    work = ("prune", "-m", model, *data, "-b", "units=50%")
    done = mipp(*work, "-o", small, "--json")
    assert done.code == 0, done.err
    found = done.json
    assert found["task"] == "causal-lm"
    assert found["accuracy"] is None
    assert found["metric"]["name"] == "perplexity"
    assert found["units"]["after"] <= 0.5 * found["units"]["before"]
    # the last fifth of the text, computed by hand
    tokenizer = transformers.AutoTokenizer.from_pretrained(language / name)
    ids = tokenizer((language / "text.txt").read_text(), verbose=False)["input_ids"]
    blocks = torch.tensor(ids[: len(ids) // 32 * 32]).view(-1, 32)
    full = transformers.AutoModelForCausalLM.from_pretrained(language / name).eval()
    held_out = blocks[-(len(blocks) // 5) :]
    with torch.no_grad():
        assert found["metric"]["before"] == pytest.approx(perplexity(full, held_out), rel=1e-4)
    again = mipp("eval", "-m", model, *data, "-w", small, "--json").json
    assert again["metric"] == {"name": "perplexity", "value": found["metric"]["after"]}
    assert again["n_samples"] == 31 * len(held_out)
    shown = mipp(*work)
    assert "perplexity" in shown.out
    assert "No --weights" not in shown.out
    assert mipp("inspect", "-m", model, *data, "--json").code == 0


def test_lines_of_texts_and_masked_tokens(mipp, language):
    data = ("--input", "16", "--json")
    lines = mipp(
        "eval", "-m", f"hf:{language / 'llama'}", *data, "-d", f"jsonl:{language / 'texts.jsonl'}"
    ).json
    assert 1 < lines["metric"]["value"] < 200
    arguments = ("-m", f"hf:{language / 'bert'}", "-d", f"text:{language / 'text.txt'}", *data)
    masked = mipp("eval", *arguments).json
    assert masked["metric"]["name"] == "perplexity"
    # 14 words and two marks in each of 142 examples, 28 of them held out, 15 % hidden
    assert 0.1 * 14 * 28 < masked["n_samples"] < 0.2 * 14 * 28
    done = mipp("prune", *arguments, "-b", "units=50%")
    assert done.code == 0, done.err
    assert done.json["task"] == "masked-lm"


def test_texts_with_labels_are_classified(mipp, language):
    arguments = ("-m", f"hf:{language / 'labels'}", "-d", f"jsonl:{language / 'labelled.jsonl'}")
    done = mipp("prune", *arguments, "-b", "units=50%", "--json")
    assert done.code == 0, done.err
    assert done.json["task"] == "text-classification"
    assert 0 <= done.json["accuracy"]["after"] <= 1


def test_a_tokenizer_can_be_anothers(mipp, language, folder):
    bare = folder / "bare"
    bare.mkdir()
    (bare / "config.json").write_text((language / "llama" / "config.json").read_text())
    work = ("prune", "-m", f"hf:{bare}", "-d", f"text:{language / 'text.txt'}", "-b", "units=50%")
    done = mipp(*work)
    assert done.code == 1
    assert "there is none in" in " ".join(done.err.split())
    done = mipp(*work, "--tokenizer", language / "gpt2", "--json")
    assert done.code == 0, done.err
    assert "random weights" in done.err


def test_what_texts_cannot_do_is_said(mipp, language, folder):
    llama, text = f"hf:{language / 'llama'}", f"text:{language / 'text.txt'}"
    (folder / "short.txt").write_text("the cat")
    prune = ("prune", "-b", "units=50%")
    for arguments, words in (
        ((*prune, "-m", llama, "-d", text, "--retrain", "1"), "--retrain was given for a language"),
        ((*prune, "-m", llama, "-d", text, "--method", "oto"), "--method was given for a language"),
        ((*prune, "-m", llama, "-d", text, "--input", "65"), "takes 64 tokens at most"),
        ((*prune, "-m", llama, "-d", text, "--input", "3,4"), "expected a whole number"),
        ((*prune, "-m", llama, "-d", "text:short.txt"), "is 2 tokens long; expected at least two"),
        ((*prune, "-m", llama, "-d", "text:no.txt"), "there is no file no.txt"),
        ((*prune, "-m", "file_nets:Net", "-d", text), "comes without one. Give --tokenizer"),
        ((*prune, "-m", llama), "no --data was given for hf:"),
        ((*prune, "-m", llama, "-d", text, "--metric", "accuracy"), "without class indices"),
        (("train", "-m", llama, "-d", text, "-o", "x.safetensors"), "mipp train was given for"),
    ):
        done = mipp(*arguments)
        assert done.code in (1, 2)
        assert words in " ".join(done.err.split()), done.err


def some(count, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, 6)).astype(np.float32)
    return x, x[:, :3].argmax(1)


def test_arrays_of_numpy(mipp, folder):
    x, y = some(200)
    np.savez("one.npz", x=x, y=y)
    np.savez("two.npz", x_train=x[:150], y_train=y[:150], x_test=x[150:], y_test=y[150:])
    np.savez("named.npz", left=x[:, :3], right=x[:, 3:5], y=y)
    prune = ("prune", "-b", "units=50%", "--json")
    done = mipp(*prune, "-m", "file_nets:Net", "-d", "npz:one.npz", "--retrain", "1")
    assert done.code == 0, done.err
    assert done.json["accuracy"]["retrained"] > 0
    done = mipp("train", "-m", "file_nets:Net", "-d", "npz:two.npz", "-o", "net.safetensors",
                "--json")  # fmt: skip
    assert done.json["n_samples"] == 50
    named = mipp(*prune, "-m", "file_nets:Named", "-d", "npz:named.npz")
    assert named.code == 0, named.err
    assert named.json["accuracy"]["before"] > 0
    refused = mipp(*prune, "-m", "file_nets:Named", "-d", "npz:named.npz", "--retrain", "1")
    assert "--retrain was given for a model of several inputs" in refused.err


def test_lines_of_numbers(mipp, folder):
    x, y = some(60)
    lines = [
        {"left": row[:3].tolist(), "right": row[3:5].tolist(), "y": int(label)}
        for row, label in zip(x, y, strict=True)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    np.savez("same.npz", left=x[:, :3], right=x[:, 3:5], y=y)
    prune = ("prune", "-m", "file_nets:Named", "-b", "units=50%", "--json", "-d")
    one, other = mipp(*prune, "jsonl:rows.jsonl").json, mipp(*prune, "npz:same.npz").json
    assert one["accuracy"] == other["accuracy"]
    assert one["groups"] == other["groups"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty; expected one JSON object a line"),
        ("[1, 2]", "line 1 is no object with fields"),
        ('{"x": [1]}\n{"x": ', "line 2 cannot be read as JSON"),
        ('{"x": [1]}\n{"z": [1]}', "line 2 has z; expected the fields of the first line, x"),
        ('{"x": [1]}\n{"x": [1, 2]}', "the lists of 'x' differ in length"),
        ('{"x": ["a"]}', "expected numbers, with the examples in dimension 0"),
        ('{"y": 1}', "expected one or more inputs"),
        ('{"text": 3}', "a text is no string"),
        ('{"x": [1]}', "has 1 example; expected at least 2"),
    ],
)
def test_what_is_wrong_with_lines_is_said(mipp, folder, content, words):
    (folder / "bad.jsonl").write_text(content)
    done = mipp("prune", "-m", "file_nets:Net", "-d", "jsonl:bad.jsonl", "-b", "units=50%")
    assert done.code in (1, 2)
    assert words in " ".join(done.err.split())


def test_arrays_of_objects_are_not_read(mipp, folder):
    np.savez("objects.npz", x=np.array([{}, []], dtype=object))
    done = mipp("prune", "-m", "file_nets:Net", "-d", "npz:objects.npz", "-b", "units=50%")
    assert done.code == 1
    assert "cannot be read" in done.err


def pictures(folder, count, shade):
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.full((20 + number, 30, 3), shade, np.uint8)
        image.fromarray(pixels).save(folder / f"{number}.png")


def test_folders_of_images(mipp, folder):
    for part, count in (("train", 10), ("val", 3)):
        pictures(folder / "net" / part / "bright", count, 250)
        pictures(folder / "net" / part / "dark", count, 5)
    pictures(folder / "plain" / "bright", 5, 250)
    pictures(folder / "plain" / "dark", 5, 5)
    size = ("--input", "3,12,16")
    trained = mipp(
        "train", "-m", "file_nets:Pixels", "-d", "images:net", *size, "--epochs", "12", "--json",
        "-o", "net.safetensors", "--lr", "0.1",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    assert trained.json["n_samples"] == 6
    assert trained.json["accuracy"] == 1  # light and dark are told apart
    prune = ("prune", "-m", "file_nets:Pixels", "-w", "net.safetensors", "-b", "units=50%", *size)
    found = mipp(*prune, "-d", "images:plain", "--json").json
    assert found["accuracy"]["before"] == 1
    (folder / "plain" / "dark" / "0.png").write_text("no image")
    (folder / "plain" / "dark" / "1.png").write_text("no image")
    (folder / "plain" / "dark" / "2.png").write_text("no image")
    done = mipp(*prune, "-d", "images:plain")
    assert done.code == 1
    assert "cannot be read" in done.err
    (folder / "empty").mkdir()
    done = mipp(*prune, "-d", "images:empty")
    assert "expected one for each class" in " ".join(done.err.split())
    done = mipp(*prune[:-1], "7,12,16", "-d", "images:plain")
    assert "images have a shape of (1 or 3, height, width)" in " ".join(done.err.split())
    done = mipp(*prune, "-d", "images:nowhere")
    assert "there is no folder nowhere" in done.err


def test_an_image_keeps_its_proportions_and_is_standardised():
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    from mipp.cli.image_folders import as_tensor

    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 255  # the middle, which is what is left of a wide image
    found = as_tensor(image.fromarray(pixels), 10, 10)
    assert found.shape == (3, 10, 10)
    for channel, (mean, deviation) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        assert found[channel].mean() == pytest.approx((1 - mean) / deviation, abs=1e-4)
    grey = as_tensor(image.fromarray(pixels).convert("L"), 4, 4)
    assert grey.shape == (1, 4, 4)
    assert grey.max() == 1


def test_a_metric_of_the_user(mipp, folder):
    x, y = some(100)
    np.savez("one.npz", x=x, y=y)
    prune = ("prune", "-m", "file_nets:Net", "-d", "npz:one.npz", "-b", "units=50%")
    done = mipp(*prune, "--metric", "file_nets:norm", "--json")
    assert done.code == 0, done.err
    assert done.json["metric"]["name"] == "norm"
    assert done.json["metric"]["before"] > 1
    assert done.json["accuracy"] is None
    for name, words in (
        ("file_nets:words", "returned 'good'; expected one finite number"),
        ("file_nets:number", "is a int; expected a function of (model, batches)"),
        ("f1", "expected one of accuracy, perplexity, or package.module:function"),
        ("perplexity", "has no tokens to predict"),
    ):
        refused = mipp(*prune, "--metric", name)
        assert refused.code in (1, 2)
        assert words in " ".join(refused.err.split())


def test_nothing_is_measured_where_nothing_is_asked(mipp, folder):
    x, _ = some(100)
    np.savez("inputs.npz", x=x)
    prune = ("prune", "-m", "file_nets:Net", "-d", "npz:inputs.npz", "-b", "units=50%")
    done = mipp(*prune, "--json")
    assert done.code == 0, done.err
    assert "metric" not in done.json
    assert done.json["task"] == "none"
    assert "nothing was measured" in done.err
    done = mipp(*prune, "--task", "poetry")
    assert done.code == 2
    assert "--task poetry is not known; expected one of image-classification" in done.err


def test_an_own_model_without_data_is_told_what_it_needs(mipp, folder):
    done = mipp("prune", "-m", "file_nets:Net", "-b", "units=50%")
    assert done.code == 2
    said = " ".join(done.err.split())
    assert "no --data was given for file_nets:Net; expected the data that it takes" in said
    assert "images:FOLDER, text:FILE" in said


def test_published_weights_are_asked_for_by_name(mipp, folder, monkeypatch):
    from types import ModuleType, SimpleNamespace

    asked = []

    def get_model(name, weights, **options):
        asked.append((name, weights, options))
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 7))

    module = ModuleType("torchvision")
    module.models = SimpleNamespace(list_models=lambda: ["tiny"], get_model=get_model)
    monkeypatch.setitem(sys.modules, "torchvision", module)
    work = ("prune", "-m", "torchvision:tiny", "-d", "digits", "-b", "units=50%", "--samples", "64")
    done = mipp(*work, "--pretrained")
    assert asked == [("tiny", "DEFAULT", {})]
    assert done.code == 1
    assert "has 7 outputs, and --data digits 10 classes" in " ".join(done.err.split())
    done = mipp(*work, "--pretrained", "--task", "none")
    assert done.code == 0, done.err
    assert "random weights" not in done.out
    done = mipp("inspect", "-m", "digits_cnn", "--pretrained")
    assert done.code == 2
    assert "expected torchvision:NAME or timm:NAME" in done.err
    done = mipp("eval", "-m", "torchvision:tiny", "-d", "digits")
    assert done.code == 2
    assert "--pretrained for torchvision" in " ".join(done.err.split())


def test_what_is_held_out_is_not_calibrated_or_trained_on(folder, language):
    from mipp.cli.datasets import DataOptions, find_source
    from mipp.cli.model_names import find_network

    x = np.arange(50, dtype=np.float32)[:, None]
    np.savez("numbers.npz", x=x)
    own = find_network("file_nets:Net")
    source = find_source("npz:numbers.npz", own, DataOptions(seed=3))
    seen, held_out = (
        sorted(number for batch in batches for number in batch.flatten().tolist())
        for batches in (source.calibration(None, 0), source.test())
    )
    assert len(held_out) == 10
    assert sorted(seen + held_out) == x.flatten().tolist()
    assert held_out != list(range(40, 50))  # of examples without an order, any
    # of a text, the last fifth
    llama = find_network(f"hf:{language / 'llama'}")
    text = find_source(f"text:{language / 'text.txt'}", llama, DataOptions(shape="8"))
    blocks = {
        name: {tuple(row.tolist()) for batch in batches for row in batch["input_ids"]}
        for name, batches in (("seen", text.calibration(None, 0)), ("held", text.test()))
    }
    assert len(blocks["held"]) == 50
    assert not blocks["seen"] & blocks["held"]


def test_marks_of_a_text_are_not_hidden(language):
    from mipp.cli.datasets import DataOptions, find_source
    from mipp.cli.model_names import find_network

    bert = find_network(f"hf:{language / 'bert'}")
    options = DataOptions(shape="16", task="masked-lm")
    batches = list(find_source(f"text:{language / 'text.txt'}", bert, options).calibration(None, 0))
    ids = torch.cat([inputs["input_ids"] for inputs, _ in batches])
    labels = torch.cat([target for _, target in batches])
    assert (ids[:, 0] == 1).all()
    assert (ids[:, -1] == 2).all()
    assert (labels[:, [0, -1]] == -100).all()
    assert ((ids == 3) == (labels != -100)).all()  # hidden is what is to be predicted
    assert (labels != -100).any(1).all()
