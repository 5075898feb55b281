"""Worker processes: one thread each on a CPU, dying with their parent, several commands side by side.

Two one-thread processes on two cores beat one two-thread process by almost 2x on small models, and one thread
gives the same bits on every run.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker

from flowclip_core.cores import available_cores
from flowclip_core.errors import InputError, notice
from flowclip_kit.distributed import locks
from flowclip_kit.distributed.locks import Held, Waiting

# Seconds between looks at work that another command is doing.
PATIENCE = 0.5


def default_jobs() -> int:
    """Jobs where no number is given: one for each core that this process may use."""
    return available_cores()


@contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
    """Processes started inside never see Ctrl-C, which a terminal sends to all: the parent answers it and
    ends them.

    Without this each of them would print a traceback of its own, even while it is still importing.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    hangup = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []  # a closed terminal sends that to all, too
    before = signal.pthread_sigmask(signal.SIG_BLOCK, hangup)
    resource_tracker.ensure_running()  # it would unblock SIGINT if it were started later
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # blocked is inherited, and nothing is lost
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end(executor: ProcessPoolExecutor) -> None:
    """Kill an executor's processes, whatever they are doing: what they were at is done again by the next
    call."""
    workers = list((executor._processes or {}).values())
    executor.shutdown(wait=False, cancel_futures=True)
    for worker in workers:  # these alone: a notebook that calls us has children of its own
        worker.kill()


class Pool:
    """Worker processes that start with the first task, so that a call with nothing to do imports nothing
    heavy."""

    def __init__(self, jobs: int, threads: int = 1) -> None:
        self.jobs, self.threads = jobs, threads
        self._executor: ProcessPoolExecutor | None = None
        self._news = None  # what workers tell, while they work

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        if self._executor is not None:
            if error[0] is None:
                self._executor.shutdown()
            else:
                end(self._executor)

    def map(
        self, work: Callable, tasks: list[tuple], told: Callable[[int], None] = lambda count: None
    ) -> Iterator[tuple[tuple, object]]:
        """Yield (task, result) in the order of completion. A task whose result is `Held`, as another call is
        at it, is done again when the rest is; it is said what is waited for. told: gets what the workers
        `tell` meanwhile. Raises InputError when a worker process is killed."""
        waiting = None
        while tasks:
            held = []
            try:
                jobs = {self.submit(work, *task): task for task in tasks}
                while jobs:
                    done, _ = wait(jobs, PATIENCE, FIRST_COMPLETED)
                    while not self._news.empty():
                        told(self._news.get())
                    for job in done:
                        task = jobs.pop(job)
                        if isinstance(result := job.result(), Held):
                            held.append((task, result))
                        else:
                            waiting = None
                            yield task, result
            except BrokenProcessPool as error:
                raise InputError(
                    "a worker process was killed, most likely for lack of memory; what is finished is kept: run the"
                    f" same command again with fewer --jobs (now {self.jobs})"
                ) from error
            tasks = [task for task, _ in held]
            if held:
                waiting = waiting or Waiting()
                waiting.go_on(held[0][1], PATIENCE)

    def submit(self, work: Callable, *arguments: object) -> Future:
        """One task for one of the processes."""
        return self._start().submit(work, *arguments)

    def _start(self) -> ProcessPoolExecutor:
        if self._executor is None:
            # Thread counts must be in the environment before torch is imported; the fork server imports it
            # once.
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
            before = os.environ.get("OMP_NUM_THREADS")
            os.environ["OMP_NUM_THREADS"] = str(self.threads)
            context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
            if os.name == "posix":
                os.environ["FLOWCLIP_FORK_SERVER_PARENT"] = str(os.getpid())
                context.set_forkserver_preload(["flowclip_kit.distributed.fork_server"])
                with deaf_to_ctrl_c():
                    forkserver.ensure_running()
            self._news = context.SimpleQueue()
            self._executor = ProcessPoolExecutor(
                self.jobs, mp_context=context, initializer=_begin, initargs=(self.threads, self._news)
            )
            try:
                self._executor.submit(os.getpid).result()  # the fork server has read the environment now
            except (EOFError, ConnectionError, BrokenProcessPool) as error:
                raise InputError(
                    "worker processes cannot start here, most likely for lack of memory; take fewer --jobs"
                    f" (now {self.jobs}), or raise the limits of ulimit -v and -u"
                ) from error
            if before is None:
                del os.environ["OMP_NUM_THREADS"]
            else:
                os.environ["OMP_NUM_THREADS"] = before
        return self._executor


_news = None  # in a worker process: its end of the pool's


def _begin(threads: int, news) -> None:
    global _news
    import torch

    torch.set_num_threads(threads)
    _news = news
    end_with_parent()


def tell(count: int) -> None:
    """Say, in a worker process and while a task is going on, that `count` more of its parts are done
    (`Pool.map`)."""
    if _news is not None:
        _news.put(count)


def end_with_parent() -> None:
    """Let this worker process end when its parent is killed, which cannot tell it: it would wait for tasks
    for ever."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end_with_launcher() -> None:
    """Let a rank end when torchrun is killed, which cannot tell it: it would train on, with nobody to end
    it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return  # srun's daemon ends its tasks
    import psutil

    above = psutil.Process().parents()
    said = {process: "" for process in above}
    for process in above:
        with suppress(psutil.Error):
            said[process] = " ".join(process.cmdline())
    launchers = [
        process for process in above if "torchrun" in said[process] or "torch.distributed" in said[process]
    ]
    launcher = (launchers or above)[0].pid
    began = locks.born(launcher)

    def watch() -> None:
        while locks.born(launcher) == began:
            threading.Event().wait(1)
        number = os.environ.get("RANK", "0")
        notice(
            f"rank {number}: its launcher (PID {launcher}) has ended; what is finished is kept: start it again"
        )
        locks.release_all()
        os._exit(2)

    threading.Thread(target=watch, daemon=True, name="launcher").start()
