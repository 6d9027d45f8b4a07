"""What the site does beside its pages' Markdown; MkDocs calls these functions by their names.

The changelog and the contributing page are made from the files at the root. Links from a page to a
file outside of ``docs`` become the file's name. In the navigation, ``folder/*`` stands for
the pages of that folder that are not named. On an API page, ``::: mipp.retrain.*`` stands for all
names of that module. Pages of notebooks offer them as files of Jupyter, too.
"""

import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import notebooks  # noqa: E402 - beside this file

DOCS = ROOT / "docs"

FROM_ROOT = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
"""Page of the site -> file at the root that it is made from."""

LINK = re.compile(r"(?P<mark>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
ALL_OF = re.compile(r"^::: (?P<module>[\w.]+)\.\*$", re.M)
FENCE = re.compile(r"^(?P<indent> *)```.*?^(?P=indent)```", re.M | re.S)


def on_config(config: Any) -> Any:
    """Replaces ``folder/*`` in the navigation by the folder's other pages, in order of name."""
    named = set(_pages(config["nav"]))
    config["nav"] = _expanded(config["nav"], named)
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are made from files at the root, and notebooks for Jupyter."""
    for page, source in FROM_ROOT.items():
        text = relinked((ROOT / source).read_text(), ROOT / source, DOCS / page)
        files.append(File.generated(config, page, content=text))
    for name in notebooks.names():
        script = (notebooks.FOLDER / f"{name}.py").read_text()
        content = notebooks.jupyter(script)
        files.append(File.generated(config, f"notebooks/{name}.ipynb", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links that leave ``docs`` become text; ``::: module.*`` stands for all that is public."""
    path = DOCS / page.file.src_uri
    if path.with_suffix(".py").exists():
        jupyter = f"[As a notebook of Jupyter]({path.stem}.ipynb) or [as a script]("
        markdown = markdown.replace("[As a script](", jupyter, 1)
    return ALL_OF.sub(public_names, relinked(markdown, path, path))


def public_names(match: re.Match[str]) -> str:
    """``::: module.name`` for each name in ``__all__`` that is a function, a class or a value.

    Examples:
        >>> public_names(ALL_OF.match("::: mipp.models.*")).splitlines()[:2]
        ['::: mipp.models.ModelSpec', '::: mipp.models.build']
    """
    module = importlib.import_module(match["module"])
    names = (name for name in module.__all__ if not inspect.ismodule(getattr(module, name)))
    return "\n".join(f"::: {match['module']}.{name}" for name in names)


def relinked(text: str, source: Path, page: Path) -> str:
    """Links of ``source`` as they have to be on ``page``; to files outside of ``docs``, their name.

    Code is left as it is. A link to nothing stays, so that MkDocs reports it.

    Examples:
        >>> relinked("See [it](../lab/records).", DOCS / "a.md", DOCS / "a.md")
        'See it (`lab/records` in the repository).'
    """
    blocks = [match[0] for match in FENCE.finditer(text)]
    parts = FENCE.split(text)[:: FENCE.groups + 1]

    def link(match: re.Match[str]) -> str:
        if re.match(r"[a-z]+:", match["target"]):
            return match[0]
        file = Path(os.path.normpath(source.parent / match["target"]))
        if not file.exists() or ROOT not in (file, *file.parents):
            return match[0]
        if DOCS in file.parents:
            target = Path(os.path.relpath(file, page.parent)).as_posix()
        elif file.name in FROM_ROOT.values():
            made = next(name for name, root in FROM_ROOT.items() if root == file.name)
            target = Path(os.path.relpath(DOCS / made, page.parent)).as_posix()
        else:
            name = file.relative_to(ROOT).as_posix()
            words = match["text"].strip("`")
            return (
                f"`{name}`"
                if words in (name, file.name)
                else (f"{match['text']} (`{name}` in the repository)")
            )
        return f"{match['mark']}[{match['text']}]({target}{match['anchor'] or ''})"

    done = [LINK.sub(link, part) for part in parts]
    return "".join(part + block for part, block in zip(done, [*blocks, ""], strict=True))


def _pages(nav: Any) -> Iterator[str]:
    for entry in nav if isinstance(nav, list) else [nav]:
        if isinstance(entry, dict):
            for value in entry.values():
                yield from _pages(value)
        else:
            yield entry


def _expanded(nav: list[Any], named: set[str]) -> list[Any]:
    found: list[Any] = []
    for entry in nav:
        if isinstance(entry, dict):
            found.append(
                {
                    title: _expanded(value, named) if isinstance(value, list) else value
                    for title, value in entry.items()
                }
            )
        elif entry.endswith("/*"):
            pages = (path.relative_to(DOCS) for path in sorted(DOCS.glob(f"{entry}.md")))
            found += [page.as_posix() for page in pages if page.as_posix() not in named]
        else:
            found.append(entry)
    return found
