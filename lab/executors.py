"""Where items are done: in this process, in processes of this machine, or on a Dask cluster."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

from lab.experiment import ExperimentItem
from lab.measurements import Item
from lab.run_item import Device, perform
from mipp.errors import InputError, how_to_install

Done = dict[str, Any]
"""What `perform` gives."""

Next = Callable[[], Item | ExperimentItem | None]
"""The next item to do, None when there is none left."""


@runtime_checkable
class Executor(Protocol):
    """Does items as they are asked for, and gives what they came to in any order."""

    def do(self, following: Next) -> Iterator[Done]:
        """Asks for an item only when there is room for it."""
        ...


class Here:
    """One after the other, in this process."""

    def __init__(self, device: Device, n_threads: int) -> None:
        self.device: Device = device
        self.n_threads = n_threads

    def do(self, following: Next) -> Iterator[Done]:
        """One after the other."""
        while (item := following()) is not None:
            yield perform(item.content(), self.device, self.n_threads)


class Processes:
    """``n_jobs`` processes of this machine, each with its share of the threads."""

    def __init__(self, n_jobs: int, device: Device, n_threads: int) -> None:
        self.n_jobs, self.n_threads = n_jobs, n_threads
        self.device: Device = device

    def do(self, following: Next) -> Iterator[Done]:
        """As many at a time as there are processes.

        Raises:
            InputError: a process that was killed, for its memory perhaps.
        """
        import joblib  # noqa: PLC0415 - starting takes long, and one job needs none of it
        from joblib.externals.loky.process_executor import (  # noqa: PLC0415
            TerminatedWorkerError,
        )

        def tasks() -> Iterator[Any]:
            while (item := following()) is not None:
                yield joblib.delayed(perform)(item.content(), self.device, self.n_threads)

        with joblib.parallel_config("loky", inner_max_num_threads=self.n_threads):
            parallel = joblib.Parallel(
                n_jobs=self.n_jobs,
                return_as="generator_unordered",
                batch_size=1,
                pre_dispatch=self.n_jobs,
            )
            try:
                yield from parallel(tasks())
            except TerminatedWorkerError as error:
                raise InputError(
                    f"one of {self.n_jobs} processes was killed, perhaps for the memory that it "
                    "took. What is finished is on disk: run the same command again, with fewer "
                    "--jobs."
                ) from error


class Cluster:
    """The workers of a Dask scheduler at an address."""

    def __init__(self, address: str, device: Device) -> None:
        self.address = address
        self.device: Device = device

    def do(self, following: Next) -> Iterator[Done]:
        """One item for each thread of the workers that there are; those of a lost worker again.

        Raises:
            InputError: no dask, no scheduler at the address, or workers with several threads.
        """
        try:
            from dask.distributed import Client, as_completed  # noqa: PLC0415
        except ImportError as error:
            raise InputError(
                f"--dask needs dask, which is not installed: {how_to_install('lab')}."
            ) from error
        try:
            client = Client(self.address, set_as_default=False, timeout=10)
        except (OSError, ValueError, TimeoutError) as error:
            raise InputError(
                f"--dask {self.address}: no scheduler answers there ({error}). Start one with "
                "'dask scheduler', and workers with 'dask worker ADDRESS --nthreads 1'."
            ) from error
        with client:
            client.wait_for_workers(1)
            waiting, n_open = as_completed([], loop=client.loop), 0
            while True:
                # workers come and go
                while n_open < _n_workers(client) and (item := following()) is not None:
                    # one thread each: torch's global generators are shared by threads
                    given = (item.content(), self.device, 1)
                    waiting.add(client.submit(perform, *given, key=_PREFIX + item.id, pure=False))
                    n_open += 1
                if not n_open:
                    return
                yield _result(next(waiting))
                n_open -= 1


_PREFIX = "mipp-"


def _n_workers(client: Any) -> int:
    """How many there are; one at least, since a lost one may be replaced."""
    threads: dict[str, int] = client.nthreads()
    wide = [name for name, number in threads.items() if number != 1]
    if wide:
        raise InputError(
            f"worker {wide[0]} has {threads[wide[0]]} threads; expected one each, since items in "
            "threads of one process would draw from the same random generators. Start workers "
            "with --nthreads 1, and more of them."
        )
    return max(1, len(threads))


def _result(future: Any) -> Done:
    from dask.distributed import KilledWorker  # noqa: PLC0415
    from distributed.client import FutureCancelledError  # noqa: PLC0415

    try:
        found: Done = future.result()
    except KilledWorker as error:
        return {"id": future.key.removeprefix(_PREFIX), "error": f"its workers died: {error}"}
    except FutureCancelledError as error:
        raise InputError(
            "the scheduler is gone. What is finished is on disk: start it and its workers again, "
            "and run the same command."
        ) from error
    return found
