"""Check the documents: code compiles; names, commands and options exist; links lead somewhere.

Error texts on the page of questions are real, pages and sections that the code names exist, and the
site builds without a warning. The English of
documents and docstrings is checked as well, by `check_style`.

Run as ``python scripts/check_docs.py``, in the environment that has mipp installed. Prints what is
wrong, with file and line, and exits with 1.
"""

import ast
import importlib
import itertools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import check_style

from mipp.errors import MippError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for the lab, which is no part of the package
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```", re.M | re.S
)
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)[^)]*\)|<img[^>]+src=\"(?P<image>[^\"]+)\"")
ROOTS = ("mipp", "lab")
HEADING = re.compile(r"^#+\s+(.*?)\s*$", re.M)
INLINE = re.compile(r"(?<!`)`(python\s-m\slab[^`]*)`(?!`)")
"""A command of the lab in a sentence."""
ELLIPSIS = "…"
"""Stands for what an error text fills in."""
PLAIN = {"NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true", "NO_COLOR": "1"}
"""Settings of MkDocs: no advertisement, no colours."""
TARGET = re.compile(r"^([a-z-]+):", re.M)
MODULE = re.compile(r'doc-module-name">\s*mipp\.(\w+)\s*<')
"""The heading of a module on an API page."""
NAMED_PAGE = re.compile(r"(?:`(?P<section>[^`]+)`\s+in\s+)?(?P<page>\bdocs/[\w/-]+\.md)")
"""A page in a text of the code, and a section before it: ```The rule` in docs/guide.md``."""


@dataclass(frozen=True)
class Block:
    """Fenced code: its language, its text and the line of the file where the text starts."""

    language: str
    code: str
    line: int


def documents() -> list[Path]:
    """Markdown files at the top and under ``docs`` and ``examples``."""
    folders = [ROOT.glob("*.md"), *((ROOT / name).rglob("*.md") for name in ("docs", "examples"))]
    return sorted(path for folder in folders for path in folder)


def blocks(text: str) -> Iterator[Block]:
    """All fenced blocks of a document."""
    for match in FENCE.finditer(text):
        indent = match["indent"]
        lines = [line.removeprefix(indent) for line in match["code"].splitlines()]
        yield Block(match["language"], "\n".join(lines), text.count("\n", 0, match.start()) + 2)


def python_problems(code: str) -> Iterator[str]:
    """Syntax errors, and names of mipp that do not exist. Doctest prompts are understood."""
    if code.lstrip().startswith(">>>"):
        prompts = [line for line in code.splitlines() if line[:3] in (">>>", "...")]
        code = "\n".join(line[4:] for line in prompts)
    try:
        tree = ast.parse(code)
    except SyntaxError as error:
        yield f"does not compile: {error}"
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ROOTS:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] in ROOTS]
        elif isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            names = [dotted] if re.fullmatch(r"mipp(\.\w+)+", dotted) else []
        else:
            continue
        yield from (f"{name} does not exist" for name in names if not exists(name))


@cache
def exists(dotted: str) -> bool:
    """Whether ``mipp.a.b`` is a module, or an attribute of one."""
    path, *parts = dotted.split(".")
    found: object = importlib.import_module(path)
    for part in parts:
        path += f".{part}"
        try:  # the module first: `rule` in `graph.rules` is a function as well
            found = importlib.import_module(path)
        except ImportError:
            try:
                found = getattr(found, part)
            except (AttributeError, MippError):  # the latter where it has moved
                return False
    return True


def shell_problems(code: str, make_targets: set[str]) -> Iterator[str]:
    """``mipp`` commands and options, and ``make`` targets, that do not exist."""
    for line in code.replace("\\\n", " ").splitlines():
        words = line.split("#")[0].removeprefix("$ ").split()
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words = words[1:]
        if words[:1] == ["make"]:
            called = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
            yield from (
                f"no target {word} in the Makefile" for word in called if word not in make_targets
            )
        elif words and Path(words[0]).name == "mipp":
            yield from command_problems(("mipp",), words[1:])
        elif words[:3] == ["python", "-m", "lab"]:
            yield from command_problems(("python", "-m", "lab"), words[3:])
            yield from unknown_names(words[3:])


def unknown_names(words: list[str]) -> Iterator[str]:
    """Suites and experiments that ``python -m lab WORDS`` names and that there are not."""
    from lab import experiments, suite_files  # noqa: PLC0415 - which starts torch

    there = {*suite_files.names(), *experiments.NAMES}
    named = words[1:] if words[:1] in (["run"], ["show"], ["report"]) else []
    for word in itertools.takewhile(lambda word: not word.startswith("-"), named):
        known = word in there or word.replace("-", "_") in there
        if not known and word.isascii() and word.islower() and "." not in word:
            yield f"the lab has no suite or experiment {word}"


def command_problems(program: tuple[str, ...], words: list[str]) -> Iterator[str]:
    """What ``PROGRAM WORDS`` uses that its help does not know."""
    name = " ".join(program)
    command = tuple(word for word in words[:1] if re.fullmatch(r"\w[\w-]*", word))
    if words and not words[0].startswith("-") and help_text(program, command) is None:
        yield f"no command {name} {words[0]}"
        return
    known = help_text(program, command) or ""
    for word in words:
        option = word.split("=")[0]
        if option.startswith("-") and not re.search(rf"(?<![\w-]){option}(?![\w-])", known):
            yield f"{name} {' '.join(command)} has no option {option}"


@cache
def help_text(program: tuple[str, ...], command: tuple[str, ...]) -> str | None:
    """Help of a command that exists, in a terminal so wide that no option is cut."""
    here = Path(sys.executable).with_name(program[0]), *program[1:]
    environment = {**os.environ, "COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(
        [*map(str, here), *command, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    return done.stdout if done.returncode == 0 else None


def link_problems(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Relative links to files or headings that do not exist, with their lines."""
    for match in LINK.finditer(text):
        target = match["target"] or match["image"]
        if re.match(r"[a-z]+:", target):
            continue
        file_name, _, anchor = target.partition("#")
        file = path if not file_name else (path.parent / file_name)
        line = text.count("\n", 0, match.start()) + 1
        if not file.exists():
            yield line, f"link to {target}: there is no such file"
        elif file.parent == ROOT / "docs" / "reference" / "api" and anchor.startswith("mipp."):
            continue  # made from docstrings: MkDocs knows whether it exists
        elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text()):
            yield line, f"link to {target}: there is no such heading"


def _blank(block: re.Match[str]) -> str:
    return "\n" * block[0].count("\n")


def anchors(text: str) -> set[str]:
    """The anchors that headings of a document get."""
    headings = HEADING.findall(FENCE.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def document_problems(path: Path, make_targets: set[str]) -> Iterator[str]:
    """Everything wrong in one document, as ``file:line: what``."""
    text, name = path.read_text(), path.relative_to(ROOT)
    for block in blocks(text):
        if block.language in ("python", "py"):
            found = python_problems(block.code)
        elif block.language in ("bash", "sh", "shell", "console"):
            found = shell_problems(block.code, make_targets)
        else:
            continue
        yield from (f"{name}:{block.line}: {what}" for what in found)
    for match in INLINE.finditer(FENCE.sub(_blank, text)):
        line = text.count("\n", 0, match.start()) + 1
        found = shell_problems(" ".join(match[1].split()), make_targets)
        yield from (f"{name}:{line}: {what}" for what in found)
    yield from (
        f"{name}:{line}: {what}" for line, what in link_problems(path, FENCE.sub(_blank, text))
    )


def texts_in_code() -> Iterator[str]:
    """Every text in the package, with an ellipsis for each value that is filled in."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                parts = (
                    part.value if isinstance(part, ast.Constant) else ELLIPSIS
                    for part in node.values
                )
                yield "".join(map(str, parts))


def quoted_problems(page: str, code: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Error texts on a page, in blocks of ``text``, that no text in the code has in it."""
    for block in blocks(page):
        if block.language == "text":
            quoted = " ".join(block.code.split())
            parts = [re.escape(part) for part in quoted.split(ELLIPSIS)]
            wanted = re.compile(".*?".join(parts).replace(r"\ ", r"\s+"), re.S)
            if not any(wanted.search(text) for text in code):
                yield block.line, f"no error has the text {quoted!r}"


def named_page_problems() -> Iterator[str]:
    """Pages, and sections of pages, that texts of the code name and that do not exist."""
    folders = (ROOT / name for name in ("src", "lab", "examples"))
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                place = f"{path.relative_to(ROOT)}:{node.lineno}"
                yield from (f"{place}: {what}" for what in missing_pages(node.value))
    for path in sorted((ROOT / "lab").rglob("*.toml")):
        yield from (f"{path.relative_to(ROOT)}: {w}" for w in missing_pages(path.read_text()))


def missing_pages(text: str) -> Iterator[str]:
    """What a text names of the documents and that does not exist."""
    for match in NAMED_PAGE.finditer(text):
        page = ROOT / match["page"]
        if not page.is_file():
            yield f"there is no page {match['page']}"
        elif match["section"] and match["section"] not in HEADING.findall(
            FENCE.sub("", page.read_text())
        ):
            yield f"{match['page']} has no section {match['section']!r}"


def site_problems() -> Iterator[str]:
    """What goes wrong while the site is built, warnings included."""
    with tempfile.TemporaryDirectory() as site:
        done = subprocess.run(
            [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", site],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env={**os.environ, **PLAIN},
            check=False,
        )
        if done.returncode != 0:
            yield f"site: {done.stderr.strip()}"
            return
        pages = {path: path.read_text() for path in Path(site).rglob("*.html")}
        for path, page in pages.items():
            name = path.relative_to(site)
            yield from (f"site: {name} loads {url} from a network" for url in loaded(page))
        text = "".join(pages.values())
        yield from (
            f"site: mipp.{name} is shown as a module"
            for name in sorted(public_names() & set(MODULE.findall(text)))
        )
        named = set(re.findall(r'id="mipp[\w.]*\.(\w+)"', text))
        yield from (f"site: no page has mipp.{name}" for name in sorted(public_names() - named))


def loaded(page: str) -> list[str]:
    """Scripts, styles, pictures and frames of a page of HTML that come from a network."""
    tags = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page)
    tags = [tag for tag in tags if not re.search(r'rel="(?:canonical|prev|next)"', tag)]
    return [url for tag in tags for url in re.findall(r'(?:src|href)="((?:https?:)?//[^"]+)"', tag)]


def public_names() -> set[str]:
    """Functions and classes of `mipp` itself, which all belong on an API page."""
    mipp = importlib.import_module("mipp")
    return {name for name in mipp.__all__ if callable(getattr(mipp, name))}


def main() -> int:
    """Check all documents; the exit status."""
    make_targets = set(TARGET.findall((ROOT / "Makefile").read_text()))
    found = [what for path in documents() for what in document_problems(path, make_targets)]
    faq = ROOT / "docs" / "faq.md"
    found += [
        f"{faq.relative_to(ROOT)}:{line}: {what}"
        for line, what in quoted_problems(faq.read_text(), list(texts_in_code()))
    ]
    found += named_page_problems()
    found += site_problems()
    errors, notes = check_style.check()
    found += errors
    for what in (*notes, *found):
        print(what)
    print(f"{len(documents())} documents, {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
