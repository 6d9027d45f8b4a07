"""Exit codes and messages."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import mipp as library
from mipp.cli import help_pages
from mipp.cli.output import open_output

ROOT = Path(__file__).parents[2]


def test_help_and_version(mipp):
    helped = mipp("--help")
    assert helped.code == 0
    for name in ("inspect", "prune", "eval", "train", "demo", "Exit codes"):
        assert name in helped.out
    assert "130 interrupted" in " ".join(mipp("prune", "-h").out.split())
    assert mipp("--version").out == f"mipp {library.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-command",),
        ("eval", "--model", "mlp"),
        ("prune", "--model", "mlp"),
        ("prune", "--model", "mlp", "--budget", "macs=50%", "--order", "alphabetical"),
        ("train", "--model", "mlp", "--out", "x.safetensors", "--epochs", "0"),
        ("inspect", "--model", "mlp", "--seed", "-1"),
        ("inspect", "--model", "mlp", "--no-such-option"),
        ("inspect", "--model", "no-such-model"),
        ("inspect", "--model", "no_such_module.at_all:net"),
        ("inspect", "--model", "mlp", "--input", "abc"),
        ("export", "--model", "mlp", "--input", "abc", "--onnx", "x.onnx"),
        ("inspect", "--model", "mlp", "--data", "no-such-data"),
        ("eval", "--model", "no-such-model", "--weights", "x.safetensors"),
        ("prune", "--model", "mlp", "--budget", "macs=lots"),
        ("prune", "--model", "mlp", "--budget", "macs=0.5"),
        ("prune", "--model", "mlp", "--budget", "macs=50%", "--method", "no-such-method"),
        ("prune", "--model", "mlp", "--budget", "macs=50%", "--memory", "lots"),
        ("prune", "--model", "mlp", "--budget", "macs=50%", "--out", "x.pt"),
        ("export", "--model", "no-such-model", "--onnx", "x.onnx"),
        ("export", "--model", "mlp", "--onnx", "x.pt"),
        ("bench", "show", "no-such-suite"),
    ],
)
def test_wrong_usage_is_2(mipp, arguments):
    done = mipp(*arguments)
    assert done.code == 2
    assert not done.out
    assert done.err


def test_an_error_is_one_message_without_traceback(mipp):
    done = mipp("eval", "--model", "digits_cnn", "--weights", "nothing.safetensors")
    assert done.code == 1
    assert done.err == (
        "error: --weights nothing.safetensors: there is no such file. Check the path.\n"
    )


def test_a_shape_that_does_not_fit_is_named(mipp):
    for command in (("inspect",), ("export", "--onnx", "x.onnx")):
        done = mipp(*command, "--model", "digits_cnn", "--input", "5,9,9")
        assert done.code == 1
        assert "--input 5,9,9 does not fit digits_cnn: RuntimeError: Given groups=1" in done.err
        assert "calibration" not in done.err


def test_a_warning_is_its_text_alone():
    code = (
        "import sys, warnings\n"
        "from mipp.cli import main\n"
        "fewer = lambda prog_name: warnings.warn('few examples. Give more.')\n"
        "sys.modules['mipp.cli.app'].app = fewer\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "warning: few examples. Give more.\n"


def test_debug_shows_where(mipp):
    done = mipp("eval", "--model", "digits_cnn", "--weights", "nothing.safetensors", "--debug")
    assert done.code == 1
    assert "Traceback" in done.err
    assert "FileError" in done.err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ZeroDivisionError("by nothing"), 70, "unexpected ZeroDivisionError: by nothing"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (library.errors.SurgeryError("it bled"), 1, "it bled"),
    ],
)
def test_errors_by_kind(mipp, monkeypatch, error, code, text):
    def fail(_name, **_options):
        raise error

    monkeypatch.setattr("mipp.cli.model_names.find_network", fail)
    done = mipp("inspect", "--model", "mlp")
    assert done.code == code
    assert text in done.err
    assert "Traceback" not in done.err
    assert ("--debug" in done.err) == (code == 70)


def test_weights_of_another_kind_of_file(mipp, tmp_path):
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(b"torn")
    for path, text in ((torn, "cut short"), (tmp_path / "x.txt", "no such file")):
        done = mipp("eval", "--model", "digits_cnn", "--weights", path)
        assert done.code == 1
        assert text in done.err


def test_debug_shows_the_errors_that_an_error_hides(mipp, monkeypatch):
    def fail(_name, **_options):
        try:
            raise KeyError("deep inside")
        except KeyError:
            raise library.errors.GraphError("no trace") from None

    monkeypatch.setattr("mipp.cli.model_names.find_network", fail)
    plain, debug = mipp("inspect", "--model", "mlp"), mipp("inspect", "--model", "mlp", "--debug")
    assert plain.err == "error: no trace\n"
    assert "KeyError: 'deep inside'" in debug.err


@pytest.mark.parametrize("name", help_pages.EXAMPLES)
def test_help_has_examples_that_fit_and_the_address_of_the_docs(mipp, name):
    shown = mipp(*(() if name == "mipp" else (name,)), "--help").out
    assert max(map(len, shown.splitlines())) <= 80
    assert help_pages.GUIDE in " ".join(shown.split())
    assert (ROOT / "docs" / "guides" / "command-line.md").is_file()
    for example in help_pages.EXAMPLES[name]:
        assert f"   {example}  " in shown.replace("\n", "  \n")  # whole, on one line


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("mipp prune --model res", {"resnet20", "resnet56b"}),
        ("mipp prune --data im", {"images:"}),
        ("mipp eval --task ca", {"causal-lm"}),
        ("mipp prune --method syn", {"synflow"}),
    ],
)
def test_a_shell_completes_names(typed, expected):
    environment = os.environ | {
        "_MIPP_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": "3"
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "mipp"], capture_output=True, text=True, env=environment, check=False
    )
    assert expected <= set(done.stdout.split())
    assert all(word.startswith(typed.split()[-1]) for word in done.stdout.split())


def test_warnings_are_held_back_and_said_once():
    output = open_output(False)
    with output.collected() as texts:
        warnings.simplefilter("always")
        for _ in range(2):
            warnings.warn("few rows", UserWarning, stacklevel=1)
        assert not texts
    assert texts == ["few rows"]


def test_warnings_before_an_error_are_printed(capsys):
    def fails():
        with open_output(False).collected():
            warnings.simplefilter("always")
            warnings.warn("few rows", UserWarning, stacklevel=1)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fails()
    assert capsys.readouterr().err == "warning: few rows\n"
