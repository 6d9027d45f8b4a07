"""Progress: bars on terminals that are gone afterwards, lines elsewhere, rank 0 alone."""

import os
import pty
import subprocess
import sys
import types

import pytest
import torch
from torch import nn

import mipp
from mipp import progress
from mipp.errors import InputError, MippError

PROGRAM = """
import sys
import torch
from torch import nn
import mipp, mipp.progress
from mipp.progress import following

mipp.progress.BEFORE_BARS = {before}
net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
batches = [torch.randn(64, 4) for _ in range(3)]
{work}
"""
WORK = """
plan = mipp.plan(net, batches, "units=50%")
print("between")
plan.apply()
print("after")
"""
CURSOR_OFF, CURSOR_ON = "\x1b[?25l", "\x1b[?25h"


def on_terminal(work, before=0.0, **env):
    """What a program writes to a terminal, and apart from it to its stdout, a pipe."""
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(work=work, before=before)],
        stdout=subprocess.PIPE, stderr=terminal, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TERM": "xterm", "COLUMNS": "100"} | env,
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:  # Linux's way of saying that the other side is closed
            break
        if not part:
            break
        shown += part
    out = process.communicate(timeout=120)[0]
    os.close(master)
    return shown.decode(), out


def left_on_screen(shown):
    """The lines of a terminal after what was written to it; knows the codes that rich sends."""
    lines, row, column, at = [""], 0, 0, 0
    while at < len(shown):
        if shown.startswith("\x1b[", at):
            end = next(i for i in range(at + 2, len(shown)) if shown[i].isalpha())
            number, code = shown[at + 2 : end], shown[end]
            at = end + 1
            if code == "A":
                row -= int(number or 1)
            elif code == "K":
                lines[row] = ""
            else:
                assert code in "mhl", code
            continue
        if shown[at] == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif shown[at] == "\r":
            column = 0
        else:
            lines[row] = lines[row][:column].ljust(column) + shown[at] + lines[row][column + 1 :]
            column += 1
        at += 1
    return [line for line in lines if line.strip()]


def test_a_terminal_has_bars_while_it_runs_and_nothing_afterwards():
    shown, out = on_terminal(WORK)
    for words in ("tracing", "measuring activations", "scoring units", "refitting", "3/3"):
        assert words in shown
    assert left_on_screen(shown) == []
    assert shown.count(CURSOR_OFF) == shown.count(CURSOR_ON) > 0
    assert out == "between\nafter\n"  # as a pipe would have it without bars


def test_a_terminal_after_prints_errors_and_a_long_first_stage():
    work = """
import time
with following(None) as follower:
    follower("capture", 1, 2)
    print("to stderr", file=sys.stderr)
    print("to stdout")
for error in (ValueError("broken"), KeyboardInterrupt()):
    try:
        with following(None) as follower:
            follower("score", 1, 2)
            raise error
    except BaseException as caught:
        print(type(caught).__name__)
mipp.progress.BEFORE_BARS = 0.2
with following(None):  # says nothing, and is shown all the same
    time.sleep(1.0)
    sys.stderr.write("")
"""
    shown, out = on_terminal(work)
    assert out == "to stdout\nValueError\nKeyboardInterrupt\n"
    assert left_on_screen(shown) == ["to stderr"]
    assert "scoring units" in shown
    assert "tracing" in shown[shown.rindex("scoring units") :]
    assert shown.count(CURSOR_OFF) == shown.count(CURSOR_ON) == 4


def test_bars_that_start_while_tracing_keeps_stderr_silent_are_seen():
    work = """
import time

class Slow(nn.Linear):
    def forward(self, x):
        if torch.compiler.is_exporting():
            time.sleep(0.5)
        print("from forward", file=sys.stderr)
        return super().forward(x)

net[0], before = Slow(4, 8), sys.stderr
mipp.progress.BEFORE_BARS = 0.2
mipp.plan(net, batches, "units=50%")
assert sys.stderr is before
sys.stderr.write("the last line")
"""
    shown, _ = on_terminal(work)
    assert "tracing" in shown
    assert shown.count(CURSOR_OFF) == shown.count(CURSOR_ON) == 1
    *before, last = left_on_screen(shown)
    assert set(before) == {"from forward"}
    assert last == "the last line"


def test_short_calls_and_those_told_so_draw_nothing():
    work = "mipp.plan(net, batches, 'units=50%')\nmipp.progress.BEFORE_BARS = 0.0\n"
    work += "mipp.plan(net, batches, 'units=50%', progress=False).apply(progress=False)"
    assert on_terminal(work, before=600.0) == ("", "")


@pytest.mark.parametrize(
    ("given", "env", "expected"),
    [
        (None, {}, "_Bars"),
        (True, {}, "_Bars"),
        (False, {}, "_Lines"),
        (None, {"TERM": "dumb"}, "_Lines"),
        (None, {"RANK": "0", "WORLD_SIZE": "2"}, "_Bars"),
        (None, {"RANK": "1", "WORLD_SIZE": "2"}, "Follower"),
        (True, {"RANK": "1", "WORLD_SIZE": "2"}, "Follower"),
        (False, {"RANK": "1", "WORLD_SIZE": "2"}, "Follower"),
        (None, {"RANK": "1"}, "_Bars"),  # a variable of somebody else's
        (print, {"RANK": "1", "WORLD_SIZE": "2"}, "_Called"),
    ],
)
def test_who_shows_what_on_a_terminal(monkeypatch, given, env, expected):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for name, value in ({"TERM": "xterm"} | env).items():
        monkeypatch.setenv(name, value)
    with progress.following(given) as follower:
        assert type(follower).__name__ == expected
    with progress.following(False), progress.following(given) as follower:
        assert type(follower).__name__ == ("_Called" if given is print else "Follower")


def net_and_batches():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    return net, [torch.randn(64, 4) for _ in range(3)]


def test_without_a_terminal_each_stage_is_one_log_line(caplog, capsys):
    caplog.set_level("INFO", logger="mipp")
    net, batches = net_and_batches()
    mipp.prune(net, batches, "units=50%")
    stages = [text.partition(":")[0] for text in caplog.messages]
    assert set(stages) == {"measuring activations", "scoring units", "refitting"}
    assert stages.count("scoring units") == stages.count("refitting") == 1
    assert "".join(capsys.readouterr()) == ""
    caplog.clear()
    mipp.plan(net, batches, "units=50%", progress=True)
    assert caplog.messages == []
    out, err = capsys.readouterr()
    assert out == ""
    assert "scoring units: 8 of 8, " in err


def test_a_long_stage_has_its_line_on_the_way_with_the_time_left(caplog, monkeypatch):
    caplog.set_level("INFO", logger="mipp")
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.following(None) as follower:
        for second in range(1, 21):
            now = 100.0 + second
            follower("capture", second, 20)
        now += 1
        follower("capture", 1, 1)  # a second pass
    assert caplog.messages == [
        "measuring activations: 6 of 20, about 14 s left",
        "measuring activations: 1 of 1, 1.0 s",
    ]


def test_calls_within_calls_show_nothing_of_their_own(caplog):
    caplog.set_level("INFO", logger="mipp")
    net, batches = net_and_batches()
    with progress.following(False):
        mipp.plan(net, batches, "units=50%")
    assert caplog.messages == []
    mipp.plan(net, batches, "units=50%")
    assert caplog.messages


def test_a_function_is_called_with_every_stage():
    net, batches = net_and_batches()
    seen = []
    mipp.prune(net, batches, "units=50%", progress=lambda *step: seen.append(step))
    assert {stage for stage, _, _ in seen} == {"capture", "score", "refit"}
    assert seen[0] == ("capture", 1, 3)
    assert seen[-1][1] == seen[-1][2]
    assert all(0 <= done <= total for _, done, total in seen)
    seen.clear()
    plan = mipp.plan(net, batches, "params=50%", granularity="weight", progress=False)
    plan.apply(progress=lambda *step: seen.append(step))
    assert seen == [("refit", 1, 2), ("refit", 2, 2)]
    with pytest.raises(InputError, match="progress=3; expected True, False, None"):
        plan.apply(progress=3)


def test_a_function_that_raises_ends_the_call(caplog):
    net, batches = net_and_batches()

    def stop(*_):
        raise ZeroDivisionError

    with pytest.raises((ZeroDivisionError, MippError)):
        mipp.plan(net, batches, "units=50%", progress=stop)
    caplog.set_level("INFO", logger="mipp")
    mipp.plan(net, batches, "units=50%")  # is not taken for a call within
    assert caplog.messages


@pytest.mark.parametrize(("kernel", "widgets"), [(True, True), (True, False), (False, True)])
def test_a_notebook_is_a_kernel_with_widgets(monkeypatch, kernel, widgets):
    shell = types.SimpleNamespace(kernel=object() if kernel else None)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda _: widgets or None)
    assert progress._in_notebook() is (kernel and widgets)


def test_times_in_words():
    words = [progress.in_words(s) for s in (0.04, 9.94, 12.3, 119.0, 125.0, 7199.0, 9000.0)]
    assert words == ["0.0 s", "9.9 s", "12 s", "119 s", "2 min", "120 min", "2.5 h"]
