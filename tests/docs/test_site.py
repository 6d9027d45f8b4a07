"""What the site makes of the documents: links that leave it, pages in the navigation, commands."""

import importlib.util
import re
from pathlib import Path

import pytest

from mipp.cli.help_pages import EXIT_CODES

ROOT = Path(__file__).parents[2]


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hooks():
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install '.[docs]'")
    return load("site_hooks")


@pytest.mark.parametrize(
    ("link", "becomes"),
    [
        ("[lab](lab.md#kinds)", "[lab](lab.md#kinds)"),
        ("[up](../reference/graph.md)", "[up](../reference/graph.md)"),
        ("[out](https://pytorch.org)", "[out](https://pytorch.org)"),
        ("[nothing](nowhere.md)", "[nothing](nowhere.md)"),
        ("[here](#here)", "[here](#here)"),
        ("[lab/records](../../lab/records)", "`lab/records`"),
        ("[own_op.py](../../examples/own_op.py)", "`examples/own_op.py`"),
        ("[it](../../examples/own_op.py)", "it (`examples/own_op.py` in the repository)"),
        ("[news](../../CHANGELOG.md)", "[news](../changelog.md)"),
        ("```\n[it](../../examples/own_op.py)\n```", "```\n[it](../../examples/own_op.py)\n```"),
    ],
)
def test_links_that_leave_the_documents_become_text(hooks, link, becomes):
    page = ROOT / "docs" / "research" / "results.md"
    assert hooks.relinked(f"See\n{link}", page, page) == f"See\n{becomes}"


def test_links_of_files_at_the_root_lead_to_the_pages_of_the_site(hooks):
    text = "[a](docs/research/lab.md#kinds), ![b](docs/img/pixels.png), [c](CONTRIBUTING.md)"
    assert hooks.relinked(text, ROOT / "CHANGELOG.md", ROOT / "docs" / "changelog.md") == (
        "[a](research/lab.md#kinds), ![b](img/pixels.png), [c](contributing.md)"
    )


def test_a_star_in_the_navigation_stands_for_the_pages_that_are_not_named(hooks):
    nav = [{"Concepts": ["concepts/budgets.md", "concepts/*"]}, "faq.md"]
    ((_, pages),) = hooks.on_config({"nav": nav})["nav"][0].items()
    assert pages[0] == "concepts/budgets.md"
    assert pages.count("concepts/budgets.md") == 1
    assert "concepts/glossary.md" in pages
    assert sorted(pages) == sorted(
        path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs/concepts").glob("*.md")
    )


def test_a_star_on_an_api_page_stands_for_what_a_module_gives(hooks):
    import mipp

    page = hooks.ALL_OF.sub(hooks.public_names, "A\n\n::: mipp.retrain.*\n")
    assert re.findall(r"^::: (.*)$", page, re.M) == [
        f"mipp.retrain.{name}" for name in mipp.retrain.__all__
    ]


def test_the_page_of_commands_is_made_from_them():
    """Mended by ``python scripts/write_command_line.py``."""
    script = load("write_command_line")
    assert script.PAGE.read_text() == script.page()


def test_the_page_of_exit_codes_has_all_of_them():
    page = (ROOT / "docs" / "reference" / "exit-codes.md").read_text()
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.M)}
    assert listed == {int(code) for code in re.findall(r"\b\d+\b", EXIT_CODES)}
