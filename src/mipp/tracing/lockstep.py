"""Several forward passes side by side: all of them reach a place before any goes on.

A layer that is fitted to all examples has to wait for all of them. One batch of all examples takes
the memory of all of their intermediate values at once; here each batch runs in a thread of its own,
which waits at the places that matter and holds nothing but what its forward pass still needs. The
threads take turns, so that nothing runs at the same time as anything else.
"""

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import copy_context
from typing import Generic, TypeVar

import torch

Place = TypeVar("Place", bound=Hashable)

Pause = Callable[[Place], None]
"""Waits at a place until it has been visited with everybody who comes there."""


State = Callable[[], AbstractContextManager[None]]


class _Ended(BaseException):
    """Unwinds a thread whose result is not wanted any more."""


def visit_in_order(
    runs: Sequence[Callable[[Pause[Place]], None]],
    order: Mapping[Place, int],
    visit: Callable[[Place, Sequence[int]], None],
    first: Callable[[Place | None], Place | None] | None = None,
) -> None:
    """Runs all functions side by side and visits each place once all of them that come are there.

    Args:
        runs: functions of one argument, which they call with a place to wait at it. A place that
            has been visited holds nobody up any more.
        order: number of each place. Of several places where somebody waits, the one with the lowest
            number is visited first; runs that wait elsewhere go on later.
        visit: called in this thread with a place and the numbers of the runs that wait there.
        first: called with the next place of these runs (None: they have ended) for the place to
            visit, which several processes agree on; there may be nobody there.
    """
    if len(runs) == 1 and first is None:
        visited: set[Place] = set()

        def once(place: Place) -> None:
            if place not in visited:
                visited.add(place)
                visit(place, [0])

        runs[0](once)
        return
    threads = [_Thread(run) for run in runs]
    try:
        for thread in threads:
            thread.go_on()
        while True:
            waiting = [thread.place for thread in threads if thread.place is not None]
            place = min(waiting, key=lambda at: order[at], default=None)
            if first is not None:
                place = first(place)
            if place is None:
                return
            there = [n for n, thread in enumerate(threads) if thread.place == place]
            visit(place, there)
            for thread in threads:
                thread.visited.add(place)
            for number in there:
                threads[number].go_on()
    finally:
        for thread in threads:
            thread.end()


class _Thread(Generic[Place]):
    """One run. Either it or the thread that calls `go_on` runs, never both.

    Attributes:
        place: where it waits; None before its start and after its end.
        visited: places that do not hold it up.
    """

    def __init__(self, run: Callable[[Pause[Place]], None]) -> None:
        self.place: Place | None = None
        self.visited: set[Place] = set()
        self._run, self._ended = run, False
        self._error: BaseException | None = None
        self._turn, self._back = threading.Semaphore(0), threading.Semaphore(0)
        context, state = copy_context(), torch_state()
        self._thread = threading.Thread(target=context.run, args=(self._main, state), daemon=True)
        self._thread.start()

    def _main(self, state: State) -> None:
        self._turn.acquire()
        try:
            if not self._ended:
                with ExitStack() as stack:
                    stack.enter_context(state())
                    self._run(self._pause)
        except _Ended:
            pass
        except BaseException as error:  # noqa: BLE001 # raised again where it is waited for
            self._error = error
        finally:
            self.place = None
            self._back.release()

    def _pause(self, place: Place) -> None:
        if place in self.visited:
            return
        self.place = place
        self._back.release()
        self._turn.acquire()
        if self._ended:
            raise _Ended
        self.place = None

    def go_on(self) -> None:
        """Runs it to its next place, or to its end, and raises what it raises."""
        self._turn.release()
        self._back.acquire()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def end(self) -> None:
        """Ends it where it waits."""
        self._ended = True
        if self._thread.is_alive():
            self._turn.release()
            self._thread.join()


def torch_state() -> State:
    """A context for another thread that has torch's settings of this one."""
    grad = torch.is_grad_enabled()
    cuda = torch.cuda.current_device() if torch.cuda.is_initialized() else None
    kinds = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    autocast = [(kind, torch.get_autocast_dtype(kind)) for kind in kinds]
    device = torch.get_default_device()

    @contextmanager
    def enter() -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(torch.set_grad_enabled(grad))
            if cuda is not None:
                stack.enter_context(torch.cuda.device(cuda))
            for kind, dtype in autocast:
                stack.enter_context(torch.autocast(kind, dtype))
            if device != torch.get_default_device():
                stack.enter_context(device)
            yield

    return enter
