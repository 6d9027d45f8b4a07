"""Exit codes and messages."""

import subprocess
import sys

import pytest

import mipp as library


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
