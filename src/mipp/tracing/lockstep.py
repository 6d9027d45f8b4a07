"""Several forward passes side by side: all of them reach a place before any goes on.

A layer that is fitted to all examples has to wait for all of them. One batch of all examples takes
the memory of all of their intermediate values at once; here each batch runs in a thread of its own,
which waits at the places that matter and holds nothing but what its forward pass still needs. The
threads take turns, so that nothing runs at the same time as anything else. Where even that is too
much, as many as there is room for wait, and the others run from the start to each place.
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import copy_context
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from mipp.out_of_memory import MOST_FREED, FreedMemory

Place = TypeVar("Place", bound=Hashable)
Place_contra = TypeVar("Place_contra", bound=Hashable, contravariant=True)


class Pause(Protocol[Place_contra]):
    """Waits at a place until it has been visited with everybody who comes there."""

    def __call__(self, place: Place_contra, /, holds: float = 0.0) -> None:
        """Waits, while the run ``holds`` so many bytes."""


LOOK_BACK = 8
"""How many layers and norms back something that is still needed may come from."""

State = Callable[[], AbstractContextManager[None]]


class Held:
    """About how many bytes a forward pass holds: a tensor, and others that are there beside it.

    In front of a layer that is what skips it; at the norm of a shortcut of a ResNet, or behind a
    layer, there is one more. They are taken to be as large as the largest that came by.
    """

    def __init__(self) -> None:
        self._before = deque([0], maxlen=LOOK_BACK)

    def at(self, x: Tensor, others: int = 1) -> int:
        """Where ``x`` comes next, with so many others beside it."""
        own = x.numel() * x.element_size()
        self._before.append(own)
        return own + others * max(self._before)


class _Ended(BaseException):
    """Unwinds a thread whose result is not wanted any more."""


def visit_in_order(
    runs: Sequence[Callable[[Pause[Place]], None]],
    order: Mapping[Place, int],
    visit: Callable[[Place, Sequence[int]], None],
    first: Callable[[Place | None], Place | None] | None = None,
    memory: float = math.inf,
    leave: Callable[[int], None] = lambda _: None,
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
        memory: bytes that waiting runs may hold. A run beyond that ends where it would wait, and
            starts again when the place has been visited. The first run always waits.
        leave: called with the number of such a run before it ends, to save what the place needs.
    """
    if len(runs) == 1 and first is None:
        visited: set[Place] = set()

        def once(place: Place, /, holds: float = 0.0) -> None:  # noqa: ARG001
            if place not in visited:
                visited.add(place)
                visit(place, [0])

        runs[0](once)
        return
    together = _Together(runs, memory, leave)
    try:
        together.go_on(range(len(runs)))
        while True:
            place = min(together.places(), key=lambda at: order[at], default=None)
            if first is not None:
                place = first(place)
            if place is None:
                return
            there = together.at(place)
            visit(place, there)
            together.visited.add(place)
            together.go_on(there)
    finally:
        together.end()


class _Together(Generic[Place]):
    """Runs that wait, or have ended where they would wait.

    Attributes:
        visited: places that hold nobody up.
    """

    def __init__(
        self,
        runs: Sequence[Callable[[Pause[Place]], None]],
        memory: float,
        leave: Callable[[int], None],
    ) -> None:
        self.visited: set[Place] = set()
        self._runs, self._memory, self._leave = runs, memory, leave
        self._threads = [_Thread(run, self.visited) for run in runs]
        self._left: dict[int, Place] = {}
        self._freed = FreedMemory(min(memory, 2 * MOST_FREED))

    def places(self) -> list[Place]:
        """Where somebody waits, or would."""
        return [t.place for t in self._threads if t.place is not None] + [*self._left.values()]

    def at(self, place: Place) -> list[int]:
        """The numbers of the runs that wait at a place, or would."""
        waiting = [n for n, thread in enumerate(self._threads) if thread.place == place]
        return sorted(waiting + [n for n, at in self._left.items() if at == place])

    def go_on(self, numbers: Iterable[int]) -> None:
        """Lets runs go on to their next place, one after the other."""
        for number in numbers:
            if self._left.pop(number, None) is not None:
                self._threads[number] = _Thread(self._runs[number], self.visited)
            thread = self._threads[number]
            thread.go_on()
            self._freed.check()
            held = sum(t.holds for t in self._threads if t is not thread and t.place is not None)
            if thread.place is not None and held and held + thread.holds > self._memory:
                place = thread.place
                self._leave(number)
                thread.end()
                self._left[number] = place

    def end(self) -> None:
        """Ends all of them where they wait."""
        for thread in self._threads:
            thread.end()


class _Thread(Generic[Place]):
    """One run. Either it or the thread that calls `go_on` runs, never both.

    Attributes:
        place: where it waits; None before its start and after its end.
        holds: bytes that it holds there.
    """

    def __init__(self, run: Callable[[Pause[Place]], None], visited: Set[Place]) -> None:
        self.place: Place | None = None
        self.holds = 0.0
        self._visited = visited
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

    def _pause(self, place: Place, /, holds: float = 0.0) -> None:
        if place in self._visited:
            return
        self.place, self.holds = place, holds
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
