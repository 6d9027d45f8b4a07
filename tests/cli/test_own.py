"""Models and data of the user, and models of other packages."""

import sys
from collections import namedtuple
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

OWN = """
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))

made = Net()

def batches():
    generator = torch.Generator().manual_seed(0)
    def some(count):
        for _ in range(count):
            x = torch.randn(32, 6, generator=generator)
            yield x, x[:, :3].argmax(1)
    return some(8), some(2)  # to be had only once, and of unknown length

def whole(output): return output
def first_of_none(output): return output["logits"]
class Spectral(Net):
    def forward(self, x):
        return super().forward(x + torch.fft.fft(x).real)

class Several(Net):
    def forward(self, x):
        hidden = self[1](self[0](x))
        return self[4](self[3](self[2](hidden))), hidden

def first(output): return output[0]
def fails(): raise RuntimeError("out of paper")
def wrong(): return 7
def half(): return [], 3
def empty(): return [], []
number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module ``own_net`` in the current folder."""
    (tmp_path / "own_net.py").write_text(OWN)
    (tmp_path / "own_broken.py").write_text("import there_is_no_such_module")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    sys.modules.pop("own_net", None)


def test_train_prune_and_eval_of_an_own_model_on_own_data(mipp, own):
    both = ("--data", "own_net:batches")
    trained = mipp("train", "-m", "own_net:Net", *both, "--epochs", "3", "-o", "full.safetensors")
    assert trained.code == 0, trained.err
    pruned = mipp(
        "prune", "-m", "own_net:Net", *both, "-w", "full.safetensors", "-b", "units=50%",
        "-o", "small.safetensors", "--retrain", "1", "--json",
    )  # fmt: skip
    assert pruned.code == 0, pruned.err
    assert pruned.json["units"] == {"before": 20, "after": 10}
    found = mipp("eval", "-m", "own_net:Net", *both, "-w", "small.safetensors", "--json").json
    assert found["accuracy"] == pruned.json["accuracy"]["retrained"]
    assert found["n_samples"] == 64


def test_a_net_of_several_outputs_is_pruned_and_retrained_for_those_that_matter(mipp, own):
    wanted = "prune", "-m", "own_net:Several", "--data", "own_net:batches", "-b", "units=50%"
    done = mipp(*wanted, "--json")
    assert done.code != 0
    assert "expected logits" in done.err
    done = mipp(*wanted, "--outputs", "own_net:first", "--retrain", "1", "--json")
    assert done.code == 0, done.err
    assert {row["name"] for row in done.json["groups"]} == {"0", "2"}
    assert 0 <= done.json["accuracy"]["retrained"] <= 1


def test_what_the_figures_leave_out_is_said(mipp, own):
    wanted = "prune", "-m", "own_net:Spectral", "--data", "own_net:batches", "-b", "units=50%"
    shown = mipp(*wanted, "--samples", "4")
    assert "not counted in MACs: aten.fft" in shown.out.replace("\n", " ")
    assert "too few examples, rows for features: 2 (4 for 12)" in shown.out
    notes = mipp(*wanted, "--samples", "4", "--json").json["notes"]
    assert [note.partition(":")[0] for note in notes] == [
        "too few examples, rows for features", "not counted in MACs"
    ]  # fmt: skip


def test_which_outputs_matter(mipp, own):
    wanted = (
        "prune", "-m", "own_net:Net", "--data", "own_net:batches", "-b", "units=50%", "--json"
    )  # fmt: skip
    all_of_it = mipp(*wanted, "--outputs", "own_net:whole", "--plan", "plan.json")
    assert all_of_it.code == 0, all_of_it.err
    assert '"outputs": "own_net:whole"' in (own / "plan.json").read_text()
    done = mipp(*wanted, "--outputs", "own_net:first_of_none")
    assert done.code == 1
    assert "outputs=own_net:first_of_none failed with" in done.err
    done = mipp(*wanted, "--outputs", "own_net:number")
    assert done.code == 2
    assert "outputs=3; expected a function" in done.err


def test_plain_and_pickled_tensors_are_read(mipp, own):
    from safetensors.torch import save_file

    state = nn.Sequential(
        nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)
    ).state_dict()
    torch.save({"state_dict": state}, "net.pt")
    save_file(state, "net.safetensors")
    arguments = ("eval", "-m", "own_net:made", "--data", "own_net:batches", "--json", "-w")
    found = [mipp(*arguments, name).json for name in ("net.pt", "net.safetensors")]
    assert found[0]["accuracy"] == found[1]["accuracy"]
    del state["4.bias"]
    state["more"] = state["0.weight"] = torch.zeros(5, 5)
    torch.save(state, "other.pt")
    done = mipp(*arguments, "other.pt")
    assert done.code == 1
    assert "lacks 4.bias" in done.err
    assert "has besides more" in done.err
    assert "0.weight is (5, 5) in the file and (12, 6) in the model" in done.err


def test_inspect_needs_the_shape_of_the_inputs(mipp, own):
    done = mipp("inspect", "-m", "own_net:Net")
    assert done.code == 2
    assert "--input 3,32,32, or --data" in done.err
    by_shape = mipp("inspect", "-m", "own_net:Net", "--input", "6", "--json").json
    by_data = mipp("inspect", "-m", "own_net:Net", "--data", "own_net:batches", "--json").json
    assert by_shape == by_data
    assert by_shape["groups"][0] == {
        "name": "2", "units": 8, "producers": ["2"], "consumers": ["4"], "macs": 120.0,
        "params": 128, "exact": True,
    }  # fmt: skip
    assert mipp("inspect", "-m", "own_net:Net", "--input", "six").code == 2


def test_inspect_lists_what_is_not_counted(mipp, own):
    arguments = ("inspect", "-m", "own_net:Spectral", "--input", "6")
    ((op),) = mipp(*arguments, "--json").json["uncounted"]
    assert op.startswith("aten.fft_fft at own_net.py:")
    assert f"not counted in MACs: {op[:20]}" in mipp(*arguments).out
    assert mipp("inspect", "-m", "own_net:Net", "--input", "6", "--json").json["uncounted"] == []


@pytest.mark.parametrize(
    ("option", "name", "text"),
    [
        ("--model", "own_net:Nett", "has no Nett. It has"),
        ("--model", "own_net:", "expected package.module:name"),
        ("--model", "no_such_module:net", "No module named 'no_such_module'"),
        ("--model", "own_broken:net", "No module named 'there_is_no_such_module'"),
        ("--model", "own_net:fails", "failed with RuntimeError: out of paper"),
        ("--model", "own_net:wrong", "made a int; expected a torch.nn.Module"),
        ("--model", "own_net:number", "is a int; expected a function or class"),
        ("--data", "own_net:fails", "failed with RuntimeError: out of paper"),
        ("--data", "own_net:wrong", "returned a int; expected"),
        ("--data", "own_net:half", "returned a int in it; expected"),
        ("--data", "own_net:empty", "has no test batches"),
        ("--data", "own_net:number", "is a int; expected a function"),
    ],
)
def test_what_is_wrong_with_own_code_is_said(mipp, own, option, name, text):
    given = {"--model": "own_net:Net", "--data": "own_net:batches"} | {option: name}
    arguments = [word for pair in given.items() for word in pair]
    done = mipp("train", *arguments, "--out", "x.safetensors")
    wrong_usage = name in ("own_net:Nett", "own_net:", "no_such_module:net", "own_net:number")
    wrong_usage |= option == "--data" and name in ("own_net:wrong", "own_net:half")
    assert done.code == (2 if wrong_usage else 1)
    assert text in " ".join(done.err.split())


def test_width_and_classes_of_others(mipp, own):
    done = mipp("inspect", "-m", "own_net:Net", "--input", "6", "--width", "0.5")
    assert done.code == 1
    assert "only built-in networks have a width" in done.err


Answer = namedtuple("Answer", "logits")


class Answering(nn.Module):
    """Like the classifiers of transformers: the logits are in a record."""

    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU())
        self.head = nn.Linear(12, classes)

    def forward(self, x):
        return Answer(self.head(self.body(x)))


def _stand_in(monkeypatch, name, **content):
    module = ModuleType(name)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)


def test_models_of_other_packages(mipp, monkeypatch):
    def plain(name, num_classes=1000, **_):
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(12), nn.ReLU(), nn.Linear(12, num_classes))

    def ready(name, **options):
        model = plain(name, **options)
        model(torch.zeros(1, options.get("in_chans", 1), 8, 8))
        return model

    zoo = SimpleNamespace(
        list_models=lambda: ["tiny"], get_model=lambda n, weights, **k: ready(n, **k)
    )
    _stand_in(monkeypatch, "torchvision", models=zoo)
    _stand_in(
        monkeypatch, "timm", list_models=lambda: ["tiny"],
        create_model=lambda n, pretrained, **k: ready(n, **k),
    )  # fmt: skip
    auto = SimpleNamespace(from_pretrained=lambda name, num_labels: Answering(num_labels))
    _stand_in(monkeypatch, "transformers", AutoModelForImageClassification=auto)
    for name in ("torchvision:tiny", "timm:tiny", "hf:folder"):
        done = mipp(
            "prune", "-m", name, "--data", "digits", "-b", "units=50%", "--samples", "64",
            "--retrain", "1", "--distill", "0.3", "--json",
        )  # fmt: skip
        assert done.code == 0, done.err
        assert done.json["units"]["after"] == 6
        assert ("random weights" in done.err) == (not name.startswith("hf:"))
    for name in ("torchvision:tinny", "timm:tinny"):
        done = mipp("inspect", "-m", name)
        assert done.code in (1, 2)
        assert "Did you mean tiny?" in done.err


TEXTS = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 24,
}  # fmt: skip


def test_hugging_faces_models_are_what_their_configs_name(mipp, tmp_path):
    transformers = pytest.importorskip("transformers")
    llama = transformers.LlamaConfig(
        **TEXTS, num_key_value_heads=2, architectures=["LlamaForCausalLM"]
    )
    llama.save_pretrained(tmp_path / "llama")
    done = mipp("inspect", "-m", f"hf:{tmp_path / 'llama'}", "--json")
    assert done.code == 0, done.err
    units = {group["name"]: group["units"] for group in done.json["groups"]}
    assert units["model.layers.0.mlp.gate_proj"] == 24
    assert units["model.layers.0.self_attn.q_proj"] == 2
    assert done.json["params"] == sum(
        p.numel() for p in transformers.LlamaForCausalLM(llama).parameters()
    )
    longer = mipp("inspect", "-m", f"hf:{tmp_path / 'llama' / 'config.json'}", "--input", "64",
                  "--json")  # fmt: skip
    assert longer.json["macs"] > done.json["macs"]
    # with weights, of another kind
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**TEXTS))
    model.save_pretrained(tmp_path / "bert")
    done = mipp("inspect", "-m", f"hf:{tmp_path / 'bert'}", "--json")
    assert done.code == 0, done.err
    assert done.json["params"] == sum(p.numel() for p in model.parameters())
    vit = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=4, intermediate_size=24,
        image_size=8, patch_size=4, architectures=["ViTForImageClassification"],
    )  # fmt: skip
    vit.save_pretrained(tmp_path / "vit")
    assert mipp("inspect", "-m", f"hf:{tmp_path / 'vit'}", "--json").code == 0
    (tmp_path / "vit" / "config.json").write_text("{")
    done = mipp("inspect", "-m", f"hf:{tmp_path / 'vit'}")
    assert done.code == 1
    assert "cannot be read as JSON" in done.err


@pytest.mark.parametrize("package", ["torchvision", "timm", "transformers"])
def test_a_package_that_is_not_there(mipp, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)  # importing it fails
    name = {"transformers": "hf"}.get(package, package)
    done = mipp("inspect", "-m", f"{name}:resnet50")
    assert done.code == 1
    assert f"pip install {package}" in done.err
