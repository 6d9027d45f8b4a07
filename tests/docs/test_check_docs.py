"""Names in the documents: those that exist pass, those that do not are found."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def docs():
    sys.path.insert(0, str(SCRIPTS))
    spec = importlib.util.spec_from_file_location("check_docs", SCRIPTS / "check_docs.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPTS))
    for name in ("check_docs", "check_style"):
        del sys.modules[name]


@pytest.mark.parametrize(
    ("code", "problems"),
    [
        ("from mipp.graph.rules.rule import Call, rule", []),  # a module behind a function's name
        ("import mipp.retrain\nmipp.retrain.train(1)", []),
        (">>> mipp.plan(1)\n3", []),
        ("mipp.retrain.teach(1)", ["mipp.retrain.teach does not exist"]),
        ("from mipp.data import nothing", ["mipp.data.nothing does not exist"]),
    ],
)
def test_names_of_mipp_in_code_have_to_exist(docs, code, problems):
    assert list(docs.python_problems(code)) == problems


def test_code_has_to_compile(docs):
    (problem,) = docs.python_problems("def f(:")
    assert problem.startswith("does not compile")


def test_error_texts_have_to_occur_in_the_code_and_an_ellipsis_stands_for_what_is_filled_in(docs):
    code = ["group … has … units; expected\n  less", "another"]
    page = (
        "```text\ngroup … has … units; expected less\n```\n\n```text\ngroup … has no units\n```\n"
    )
    assert list(docs.quoted_problems(page, code)) == [
        (6, "no error has the text 'group … has no units'")
    ]


def test_texts_of_the_package_are_read_with_their_values_left_out(docs):
    texts = list(docs.texts_in_code())
    assert any("cannot be reached: the smallest is …" in text for text in texts)


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("see `The rule` in docs/guides/own-op-or-layer.md in the repository", []),
        ("derived in docs/research/method.md.", []),
        ("see docs/graph.md", ["there is no page docs/graph.md"]),
        (
            "see `Add a\nrule` in docs/guides/own-op-or-layer.md",
            ["docs/guides/own-op-or-layer.md has no section 'Add a\\nrule'"],
        ),
        ("`second_moment`, as in docs/faq.md", []),  # no section: code
    ],
)
def test_pages_and_sections_that_a_text_names_have_to_exist(docs, text, problems):
    assert list(docs.missing_pages(text)) == problems


def test_texts_of_the_code_name_pages_that_exist(docs, tmp_path, monkeypatch):
    assert list(docs.named_page_problems()) == []
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text('x = 1\ny = "see `A` " "in docs/a.md"\n')
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    assert list(docs.named_page_problems()) == ["src/a.py:2: there is no page docs/a.md"]


def test_links_into_api_pages_are_left_to_the_site(docs):
    page = docs.ROOT / "docs" / "reference" / "index.md"
    found = docs.link_problems(
        page, "[a](api/plan.md#mipp.plan)\n[b](api/plan.md#no)\n[c](api/x.md)\n"
    )
    assert [line for line, _ in found] == [2, 3]


@pytest.mark.parametrize(
    ("page", "urls"),
    [
        ('<script src="https://cdn.org/x.js"></script>', ["https://cdn.org/x.js"]),
        ('<link rel="stylesheet" href="//fonts.org/css">', ["//fonts.org/css"]),
        ('<img alt="" src="http://a.org/b.png">', ["http://a.org/b.png"]),
        ('<script src="js/x.js"></script><img src="../img/a.svg">', []),
        ('<a href="https://arxiv.org">a link</a>', []),
    ],
)
def test_what_a_page_loads_from_a_network_is_found(docs, page, urls):
    assert docs.loaded(page) == urls


def test_headings_of_modules_directly_below_the_package_are_found(docs):
    heading = '<span class="doc doc-object-name doc-{0}-name">\n  mipp.{1}</span>'
    page = "".join(
        heading.format(kind, name)
        for kind, name in (("module", "tune"), ("function", "plan"), ("module", "graph.cost"))
    )
    assert docs.MODULE.findall(page) == ["tune"]


def test_a_warning_while_the_site_is_built_is_a_problem(docs, tmp_path, monkeypatch):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install '.[docs]'")
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    (tmp_path / "mkdocs.yml").write_text("site_name: A\n")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# A\n\n[a link](nowhere.md)\n")
    (problem,) = docs.site_problems()
    assert "nowhere.md" in problem
