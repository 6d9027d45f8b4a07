"""The code of the guide runs as it stands."""

import re
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "hugging-face.md"


@pytest.mark.filterwarnings("ignore")  # as a reader would see them, and go on
def test_the_code_of_the_guide_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    for package in ("transformers", "accelerate", "peft"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.M | re.S)
    assert len(blocks) == 7
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), names)
    assert names["saved"].ordinary
    out = capsys.readouterr().out
    assert "small-llama: an ordinary checkpoint" in out
    assert "\nTrue\n" in out  # the same logits
    assert "hf:LlamaForCausalLM" in out
    assert {path.name for path in tmp_path.iterdir()} >= {
        "small-llama", "small.safetensors", "from-a-file", "trained-llama", "merged-llama",
    }  # fmt: skip
