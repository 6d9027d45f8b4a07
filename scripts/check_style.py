"""Check the English of the documents, the docstrings and the help texts; `check_docs` runs it.

Rules: no word that newcomers had to read twice, where a plainer one exists; docstrings in
Google style; and sentences of at most thirty words. Pages for users are short. A list, which
shrinks, has what is not clean.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

OLD_WORDS = {
    r"tells? apart|told apart|telling apart": "distinguish",
    r"tells (?:two|several|all) \w+ as one": "combines",
    r"told": "reported, known or distinguished",
    r"tells": "says, shows or carries information about",
    r"asked for": "requested",
    r"spell(?:s|ed|ing)?": "write, state or hard-code",
    r"held(?![- ]out)": "kept, stored or compared",
    r"dear(?:er)?": "expensive",
    r"in vain": "without success",
    r"mend(?:s|ed|ing)?": "fix or repair",
    r"anew": "again",
    r"at the least": "at least",
    r"at the most": "at most",
    r"puts? out": "return or output",
    r"hardly ever": "rarely",
    r"to be had": "available",
    r"that there are": "available, or nothing",
    r"settled": "chosen or fixed",
    r"taps": "recorded calls",
    r"in the clothes of": "as",
}
"""Pattern of a house word -> what a newcomer would write. Only words with few false alarms."""

NOT_YET_CLEAN: tuple[str, ...] = ()
"""Files, and folders that end in a slash, whose problems of words and docstrings are counted only.
Take off what has none left."""

MAX_WORDS = 30
"""In a sentence."""

LONG_PAGES = ("docs/reference/", "docs/research/")
"""Files, and folders that end in a slash, whose pages may be long. All others are for users."""

MAX_PAGE_WORDS = 1500
"""On a page for users, code and tables included."""

_FENCE = re.compile(r"^(?P<indent> *)```.*?^(?P=indent)```", re.M | re.S)
_CODE = re.compile(r"``.+?``|`[^`\n]+`")
_QUOTED = re.compile(r"^\s*>>> .*(?:\n(?!\s*$).*)*", re.M)
_OLD_WORD = re.compile("|".join(rf"(?P<w{n}>\b(?:{p})\b)" for n, p in enumerate(OLD_WORDS)), re.I)
_NOT_GOOGLE = re.compile(r"^ *(?:Parameters:? *$|[A-Z]\w+ *\n *-{3,} *$)", re.M)
_NOT_PROSE = re.compile(r"^[ \t]*(?:\||#|<|!\[).*$", re.M)
_PARAGRAPH = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )")
_SENTENCE = re.compile(r"(?<=[.!?:;])[\"*)]*\s+(?=[A-Z`*\[(])")


@dataclass(frozen=True)
class Problem:
    """Something to write differently: the file (relative to the repository), its line, and what."""

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"

    @property
    def excused(self) -> bool:
        """Whether the file is one of those that are not yet clean."""
        return self.file.startswith(NOT_YET_CLEAN)


def _blank(match: re.Match[str]) -> str:
    """As many lines as the match, with nothing in them."""
    return "\n" * match[0].count("\n")


def old_words(text: str) -> Iterator[tuple[int, str]]:
    """Line, counted from 0, and advice for each old word outside of code."""
    prose = _CODE.sub(_blank, _QUOTED.sub(_blank, _FENCE.sub(_blank, text)))
    better = list(OLD_WORDS.values())
    for match in _OLD_WORD.finditer(prose):
        assert match.lastgroup is not None
        advice = better[int(match.lastgroup[1:])]
        yield prose.count("\n", 0, match.start()), f"{match[0]!r}: better {advice}"


def python_texts(code: str) -> Iterator[tuple[int, str, bool]]:
    """Line, text, and whether it is a docstring, for docstrings and texts given as ``help=``."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            value, docstring = node.value, True
        elif isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
            value, docstring = node.value, False
            if node.arg != "help":
                continue
        else:
            continue
        if isinstance(value.value, str):
            yield value.lineno, value.value, docstring


def python_problems(code: str) -> Iterator[tuple[int, str]]:
    """Line and advice for each old word, and each section that is not in Google style."""
    for line, text, docstring in python_texts(code):
        yield from ((line + offset, what) for offset, what in old_words(text))
        for match in _NOT_GOOGLE.finditer(text) if docstring else ():
            offset = text.count("\n", 0, match.start())
            yield line + offset, f"{match[0].split()[0]!r} is not Google style: 'Args:'"


def long_sentences(text: str) -> list[tuple[int, str]]:
    """Line and advice for each sentence that is too long, outside of tables, headings and code."""
    prose = _NOT_PROSE.sub("", _FENCE.sub(_blank, text))
    found, start = [], 0
    for paragraph in _PARAGRAPH.split(prose):
        start = prose.index(paragraph, start)
        at = start
        for sentence in _SENTENCE.split(paragraph):
            at = prose.index(sentence, at)
            words = re.sub(r"\]\([^)]*\)", "]", sentence).split()
            if len(words) > MAX_WORDS:
                line = prose.count("\n", 0, at) + 1
                opening = " ".join(words[:6])
                found.append((line, f"a sentence of {len(words)} words: {opening} ..."))
            at += len(sentence)
        start += len(paragraph)
    return found


def problems() -> list[Problem]:
    """All old words, and sections of another style, those of files that are not yet clean too."""
    found = []
    for path in _documents():
        lines = old_words(path.read_text())
        found += [Problem(_relative(path), line + 1, what) for line, what in lines]
    for path in sorted((ROOT / "src" / "mipp").rglob("*.py")):
        lines = python_problems(path.read_text())
        found += [Problem(_relative(path), line, what) for line, what in lines]
    return found


def check() -> tuple[list[str], list[str]]:
    """Errors, and notes that do not fail the check."""
    found = problems()
    errors = [str(problem) for problem in found if not problem.excused]
    excused = [problem for problem in found if problem.excused]
    notes = [f"style: {len(excused)} old words and sections in files that are not yet clean"]
    notes += [
        f"style: {entry} is clean: take it off NOT_YET_CLEAN"
        for entry in NOT_YET_CLEAN
        if not any(problem.file.startswith(entry) for problem in excused)
    ]
    for path in _documents():
        text, name = path.read_text(), _relative(path)
        errors += [f"{name}:{line}: {what}" for line, what in long_sentences(text)]
        if not name.startswith(LONG_PAGES) and len(text.split()) > MAX_PAGE_WORDS:
            errors.append(
                f"{name}:1: a page of {len(text.split())} words; at most {MAX_PAGE_WORDS}"
            )
    return errors, notes


def _documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
