"""Examples in docstrings run, and every public name of these packages has one."""

import doctest
import importlib
import importlib.util
import inspect
from pathlib import Path

import pytest

import mipp

PACKAGE = Path(mipp.__file__).parent
WITH_EXAMPLES = ("mipp.data", "mipp.models", "mipp.retrain", "mipp.export", "mipp.features",
                 "mipp.latency", "mipp")  # fmt: skip
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


class Finder(doctest.DocTestFinder):
    """Finds functions behind decorators too: doctest takes them for those of another module."""

    def _from_module(self, module, thing):
        return super()._from_module(module, inspect.unwrap(thing) if callable(thing) else thing)


def modules():
    """Names of the modules that have an example."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if ">>> " in path.read_text():
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def run(module):
    """Numbers of examples that failed and were tried, and what was printed."""
    printed = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for test in Finder(exclude_empty=True).find(module, module.__name__):
        runner.run(test, out=printed.append)
    return runner.failures, runner.tries, "".join(printed)


@pytest.mark.parametrize("name", list(modules()))
def test_examples_in_docstrings_do_what_they_say(name):
    failed, tried, printed = run(importlib.import_module(name))
    assert not failed, printed
    assert tried


def public():
    """Names of functions and classes to call, of the packages that have all their examples."""
    for package in map(importlib.import_module, WITH_EXAMPLES):
        for name in package.__all__:
            thing = getattr(package, name)
            to_call = inspect.isfunction(thing) or inspect.isclass(thing)
            if to_call and not getattr(thing, "_is_protocol", False):
                yield f"{package.__name__}.{name}"


@pytest.mark.parametrize("name", list(public()))
def test_every_public_function_and_class_has_an_example(name):
    package, _, attribute = name.rpartition(".")
    thing = getattr(importlib.import_module(package), attribute)
    assert ">>> " in (inspect.getdoc(thing) or "")


def test_a_wrong_example_fails_also_behind_a_decorator(tmp_path):
    path = tmp_path / "wrong_example.py"
    path.write_text(
        "from mipp.checks import checked\n\n"
        "@checked\ndef double(x: int) -> int:\n"
        '    """Twice x.\n\n    >>> double(2)\n    5\n    """\n'
        "    return 2 * x\n"
    )
    spec = importlib.util.spec_from_file_location("wrong_example", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    failed, tried, printed = run(module)
    assert (failed, tried) == (1, 1)
    assert "Got:\n    4" in printed
