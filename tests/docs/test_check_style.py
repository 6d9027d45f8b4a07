"""The checks of English: each finds what it is for, and leaves alone what is well."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_style.py"


@pytest.fixture(scope="module")
def style():
    spec = importlib.util.spec_from_file_location("check_style", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def repository(style, tmp_path, monkeypatch):
    """An empty one; gives a function that writes a file to it."""
    monkeypatch.setattr(style, "ROOT", tmp_path)
    (tmp_path / "src" / "mipp").mkdir(parents=True)

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    write("README.md", "# Title\n\nPlain words.\n")
    return write


@pytest.mark.parametrize(
    ("text", "word", "better"),
    [
        ("The rest is told.", "told", "reported"),
        ("It tells two rounds as one.", "tells two rounds as one", "combines"),
        ("A fast method tells them apart.", "tells", "carries information"),
        ("What was Asked\nfor is made.", None, None),
        ("The size that it spells.", "spells", "hard-code"),
        ("Weights are held at zero.", "held", "kept"),
        ("Exact, and dear.", "dear", "expensive"),
        ("All of it in vain.", "in vain", "without success"),
        ("Six at the most.", "at the most", "at most"),
    ],
)
def test_an_old_word_is_found_and_a_better_one_named(style, text, word, better):
    found = [what for _, what in style.old_words(text)]
    if word is None:
        assert not found
    else:
        (what,) = found
        assert what.startswith(f"{word!r}: better ")
        assert better in what


@pytest.mark.parametrize(
    "text",
    [
        "`told` and ``held`` are names.",
        "```python\ntold = held\n```\n",
        "    >>> told\n    dear\n",
        "Held-out rows, rows held out, endearing, retold.",
    ],
)
def test_code_and_the_words_of_the_field_are_left_alone(style, text):
    assert list(style.old_words(text)) == []


def test_lines_of_documents_are_counted_across_code(style, repository):
    repository("docs/guide.md", "# A\n\n```\ntold\n```\n\nIt is told.\n")
    (problem,) = style.problems()
    assert (problem.file, problem.line) == ("docs/guide.md", 7)


def test_docstrings_and_help_texts_are_read_and_other_strings_are_not(style):
    code = (
        '"""Module.\n\nTold."""\nf(help="anew")\ng(text="anew")\nx = "told"\nX = 1\n"""Dear."""\n'
    )
    assert [line for line, _ in style.python_problems(code)] == [3, 8, 4]


@pytest.mark.parametrize(
    "section", ["Parameters:\n    x: one.", "Parameters\n----------\nx : int", "Notes\n-----\nOne."]
)
def test_sections_of_another_style_are_found(style, section):
    code = f'"""A summary.\n\n{section}\n"""\n'
    ((line, what),) = style.python_problems(code)
    assert line == 3
    assert "not Google style" in what


def test_google_sections_pass(style):
    assert list(style.python_problems('"""A summary.\n\nArgs:\n    x: one.\n"""\n')) == []


def test_a_sentence_of_thirty_words_passes_and_a_longer_one_does_not(style):
    thirty = " ".join(["word"] * 29)
    text = f"# Title\n\nShort one. So {thirty}.\n\n| {thirty} {thirty} |\n\n* A more {thirty}.\n"
    assert style.long_sentences(text) == [
        (7, "a sentence of 32 words: * A more word word word ...")
    ]


def test_files_that_are_not_yet_clean_are_counted_and_the_others_fail(
    style, repository, monkeypatch
):
    monkeypatch.setattr(style, "NOT_YET_CLEAN", ("docs/", "src/mipp/old/"))
    repository("docs/guide.md", "It is told.\n")
    repository("src/mipp/new.py", '"""It is told."""\n')
    errors, notes = style.check()
    assert errors == ["src/mipp/new.py:1: 'told': better reported, known or distinguished"]
    assert notes[0].startswith("style: 1 old words")
    assert "style: src/mipp/old/ is clean: take it off NOT_YET_CLEAN" in notes


def test_no_page_may_have_a_long_sentence(style, repository):
    repository("README.md", " ".join(["word"] * 31) + ".\n")
    repository("docs/research/method.md", " ".join(["word"] * 30) + ".\n")
    errors, _ = style.check()
    assert errors == ["README.md:1: a sentence of 31 words: word word word word word word ..."]


def test_pages_for_users_have_1500_words_at_most(style, repository):
    repository("docs/guides/long.md", "A word. " * 751)
    repository("docs/guides/short.md", "A word. " * 750)
    repository("docs/research/long.md", "A word. " * 751)
    errors, _ = style.check()
    assert errors == ["docs/guides/long.md:1: a page of 1502 words; at most 1500"]
