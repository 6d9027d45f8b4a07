"""Run the notebooks of ``docs/notebooks`` and write their pages, with outputs and figures.

    python scripts/write_notebooks.py                    # all of them: `make notebooks`
    python scripts/write_notebooks.py digits --into DIR  # one, into another folder
    python scripts/write_notebooks.py --text             # text has changed and no code: none runs

Needs matplotlib, and what the notebooks import. Each runs in a process of its own, on one thread
and in an empty folder, so that the same machine gives the same page.
"""

import argparse
import contextlib
import io
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import notebooks

ROOT = notebooks.FOLDER.parents[1]


def main(arguments: list[str] | None = None) -> int:
    """Write the pages of the notebooks that are named, or of all; the exit status."""
    parser = argparse.ArgumentParser(description="Run notebooks and write their pages.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="notebooks; by default all")
    parser.add_argument("--into", type=Path, default=notebooks.FOLDER, help="folder of the pages")
    parser.add_argument("--text", action="store_true", help="keep the outputs of the last run")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(notebooks.names()))
    if unknown:
        parser.error(f"no notebook {', '.join(unknown)}; there are {', '.join(notebooks.names())}")
    if options.here:
        write(options.names[0], options.into)
        return 0
    for name in options.names or notebooks.names():
        if options.text:
            rewrite(name)
            continue
        command = [sys.executable, __file__, name, "--here", "--into", str(options.into.resolve())]
        with tempfile.TemporaryDirectory() as folder:
            environment = os.environ | {
                "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "COLUMNS": "80",
                "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
                # ultralytics looks for nothing online, and writes its settings here
                "YOLO_CONFIG_DIR": folder, "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false",
            }  # fmt: skip
            done = subprocess.run(command, cwd=folder, env=environment, check=False)
        if done.returncode:
            return done.returncode
    return 0


def write(name: str, into: Path) -> None:
    """Run one notebook here and write its page and figures."""
    import torch  # noqa: PLC0415 - after the number of threads is fixed

    if find_spec("torchvision") is not None:  # transformers and ultralytics import it
        from lab.experiments.packages_models import load_torchvision  # noqa: PLC0415

        load_torchvision()
    script = (notebooks.FOLDER / f"{name}.py").read_text()
    start = time.process_time()
    outputs, figures = run(name, script)
    seconds = time.process_time() - start
    version = torch.__version__.partition("+")[0]
    run_in = (
        f"{seconds:.0f} s of one processor, Python {platform.python_version()}, torch {version}"
    )
    page = notebooks.page(name, script, outputs, run_in)
    for old in into.glob(f"{name}-*.svg"):
        old.unlink()
    for number, svg in enumerate(figures, 1):
        (into / notebooks.figure_name(name, number)).write_text(svg)
    (into / f"{name}.md").write_text(page)
    print(f"{name}: {seconds:.0f} s, {len(figures)} figures")


def rewrite(name: str) -> None:
    """Write the page of a notebook again, with the outputs that it has.

    Raises:
        ValueError: its code has changed since.
    """
    script, path = (notebooks.FOLDER / f"{name}.{suffix}" for suffix in ("py", "md"))
    outputs, run_in, digest = notebooks.stored(path.read_text())
    if digest != notebooks.digest(script.read_text()):
        raise ValueError(f"The code of {name} has changed: run it, without --text.")
    path.write_text(notebooks.page(name, script.read_text(), outputs, run_in))


def run(name: str, script: str) -> tuple[list[notebooks.Output], list[str]]:
    """Run the cells in one namespace: what each prints and shows, and all figures as SVG."""
    from matplotlib import rc_context  # noqa: PLC0415 - only a run needs it

    look = {
        "svg.fonttype": "none", "svg.hashsalt": name, "figure.figsize": (7, 3.2),
        "figure.constrained_layout.use": True, "axes.spines.top": False,
        "axes.spines.right": False,
    }  # fmt: skip
    namespace: dict[str, Any] = {"__name__": "__main__"}
    outputs, drawn = [], []
    with rc_context(look):
        for cell in notebooks.cells(script):
            if not cell.is_code:
                continue
            code = compile("\n" * (cell.line - 1) + cell.text, f"{name}.py", "exec")
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(code, namespace)  # noqa: S102 - our own notebook
            lines = [line.rstrip() for line in printed.getvalue().splitlines()]
            figures = open_figures()
            drawn += figures.values()
            outputs.append(notebooks.Output("\n".join(lines).strip("\n"), tuple(figures)))
    return outputs, drawn


def open_figures() -> dict[str, str]:
    """The figures that are open, as SVG, by the titles of their axes. They are closed."""
    import matplotlib.pyplot as plt  # noqa: PLC0415 - only a run needs it

    found = {}
    for number in plt.get_fignums():
        figure, svg = plt.figure(number), io.StringIO()
        about = "; ".join(axes.get_title() for axes in figure.axes if axes.get_title())
        if not about:
            raise ValueError("A figure without a title was drawn: give its axes a title.")
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        lines = [line.rstrip() for line in svg.getvalue().splitlines()]
        found[about] = "\n".join(lines) + "\n"
    plt.close("all")
    return found


if __name__ == "__main__":
    sys.exit(main())
