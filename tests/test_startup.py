"""What is imported, and when: PyTorch alone takes two seconds."""

import json
import subprocess
import sys

import pytest

import mipp

HEAVY = (
    "dask", "onnx", "onnxruntime", "onnxscript", "pandas", "plotly", "pooch", "requests", "scipy",
    "sklearn", "torchvision", "transformers",
)  # fmt: skip
"""What `import torch` does not bring, and only a part of the package needs."""


def imported(code):
    """Top-level packages, and modules of mipp, that a new process has after ``code``."""
    code += "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_mipp_imports_only_what_is_asked_for():
    assert {name for name in imported("import mipp") if name.startswith(("mipp", "torch"))} == {
        "mipp"
    }
    assert "torch" not in imported("import mipp; mipp.__version__, mipp.errors.InputError")


def test_no_public_name_but_the_selector_of_scikit_learn_needs_a_heavy_package():
    code = "import mipp, mipp._api\nfor name in mipp._api.__all__:\n"
    code += "    if name != 'FeatureSelector': getattr(mipp, name)"
    found = imported(code)
    assert "torch" in found
    assert not found & {*HEAVY, "pydantic", "rich"}


def test_public_names_are_there_and_others_are_an_error():
    assert all(getattr(mipp, name) is not None for name in mipp.__all__)
    assert {"plan", "FeatureSelector", "__version__"} <= set(dir(mipp))
    assert mipp.selection.Budget is mipp.Budget
    with pytest.raises(AttributeError, match="module 'mipp' has no attribute 'no_such_name'"):
        mipp.no_such_name  # noqa: B018
    with pytest.raises(ImportError, match="no_such_name"):
        from mipp import no_such_name  # noqa: F401


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["prune", "--help"]])
def test_help_is_shown_without_torch_and_numpy(arguments):
    code = f"import sys\nfrom mipp.cli import app\ntry: app({arguments})\nexcept SystemExit: pass"
    found = imported(code)
    assert not found & {"torch", "numpy", *HEAVY}
    assert "mipp.cli.prune" in found
