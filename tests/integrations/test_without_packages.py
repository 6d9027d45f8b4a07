"""What the integrations say where their package is not installed."""

import subprocess
import sys

CODE = """
import sys
sys.modules["lightning"] = sys.modules["pytorch_lightning"] = None
from mipp.errors import InputError
from mipp.integrations.lightning import PruneCallback
try:
    PruneCallback([1], "macs=50%")
except InputError as error:
    print(error)
"""


def test_lightning_is_to_be_installed():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("neither lightning nor pytorch_lightning can be imported")


def test_no_package_is_imported_before_it_is_used():
    code = (
        "import sys, mipp, mipp.integrations.ultralytics, mipp.integrations.torchvision; "
        "import mipp.integrations.rounds, mipp.integrations.distillation; mipp.plan; "
        "print([n for n in ('ultralytics', 'torchvision', 'lightning', 'transformers', 'torchao')"
        " if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
