"""Worker processes: one thread each on a CPU, ending with their parent, also where several commands run.

Two processes of one thread on two cores are almost twice as fast as one of two threads on small models, and
one thread gives the same bits on every run.
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
from multiprocessing.queues import SimpleQueue
from typing import Any

from flowclip_core.errors import InputError, notice
from flowclip_kit.distributed import locks
from flowclip_kit.distributed.locks import Held, Waiting

# Seconds between looks at work that another command does.
PATIENCE = 0.5

Result = tuple[tuple, Any]  # a task, what became of it


def default_jobs() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def ignore_sigint() -> Iterator[None]:
    """Processes started inside never see Ctrl-C, which a terminal sends to all: their parent ends them.

    Otherwise each of them would print a traceback of its own, even while it is still importing.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])  # a closed terminal sends it to all
    resource_tracker.ensure_running()  # started later, it would unblock SIGINT
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # blocked is inherited, and nothing is lost
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end(executor: ProcessPoolExecutor) -> None:
    """Kill an executor's processes, whatever they are doing: the next call does that again."""
    workers = list((executor._processes or {}).values())
    executor.shutdown(wait=False, cancel_futures=True)
    for worker in workers:  # these alone: a notebook that calls us has children of its own
        worker.kill()


def again_while_held(once: Callable[[list[tuple]], Iterator[Result]], tasks: list[tuple]) -> Iterator[Result]:
    """The `map` of all engines: yield (task, result) in the order of completion, as `once` does.

    A task whose result is `Held`, because another call does it, is done again when the rest is finished, and
    the user is told what is waited for.
    """
    waiting = None
    while tasks:
        held = []
        for task, result in once(tasks):
            if isinstance(result, Held):
                held.append((task, result))
            else:
                waiting = None
                yield task, result
        tasks = [task for task, _ in held]
        if held:
            waiting = waiting or Waiting()
            waiting.go_on(held[0][1], PATIENCE)


class Pool:
    """Worker processes. They start with the first task, so that a call without one imports nothing heavy."""

    def __init__(self, jobs: int, threads: int = 1) -> None:
        self.jobs, self.threads = jobs, threads
        self._executor: ProcessPoolExecutor | None = None
        self._news: SimpleQueue | None = None  # what workers tell while they work

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
    ) -> Iterator[Result]:
        """`again_while_held`. told: called with what the workers `tell` meanwhile.

        Raises InputError when a worker process is killed.
        """
        return again_while_held(lambda tasks: self._once(work, tasks, told), tasks)

    def _once(self, work: Callable, tasks: list[tuple], told: Callable[[int], None]) -> Iterator[Result]:
        try:
            jobs = {self.submit(work, *task): task for task in tasks}
            while jobs:
                done, _ = wait(jobs, PATIENCE, FIRST_COMPLETED)
                while self._news and not self._news.empty():
                    told(self._news.get())
                for job in done:
                    yield jobs.pop(job), job.result()
        except BrokenProcessPool as error:
            raise InputError(
                "a worker process was killed, most likely for lack of memory; what is finished is kept: run"
                f" the same command again with fewer --jobs (now {self.jobs})"
            ) from error

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
                with ignore_sigint():
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


_news: SimpleQueue | None = None  # in a worker process: its end of the pool's


def _begin(threads: int, news: SimpleQueue) -> None:
    global _news
    import torch

    torch.set_num_threads(threads)
    _news = news
    end_with_parent()


def tell(count: int) -> None:
    """Tell the pool, from within a task, that `count` more of its parts are done (`Pool.map`)."""
    if _news is not None:
        _news.put(count)


def end_with_parent() -> None:
    """End this worker process when its parent is killed: it would wait for tasks for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end_with_launcher() -> None:
    """End this rank when torchrun is killed: it would train on, with nobody to end it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return  # srun's daemon ends its tasks
    import psutil

    above = psutil.Process().parents()
    launchers = []
    for process in above:
        with suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if "torchrun" in command or "torch.distributed" in command:
                launchers.append(process)
    launcher = (launchers or above)[0].pid
    began = locks.born(launcher)

    def watch() -> None:
        while locks.born(launcher) == began:
            threading.Event().wait(1)
        number = os.environ.get("RANK", "0")
        notice(
            f"rank {number}: its launcher (PID {launcher}) has ended; what is finished is kept: start it"
            " again"
        )
        locks.release_all()
        os._exit(2)

    threading.Thread(target=watch, daemon=True, name="launcher").start()
