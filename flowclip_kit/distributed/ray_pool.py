"""Ray instead of worker processes: the same runs, here or on a cluster that may lose workers and nodes.

Ray is an extra (`./reproduce.sh extra ray`) and is imported with the first task.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import secrets
import shlex
import shutil
import socket
import sys
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from flowclip_core.errors import InputError
from flowclip_core.files import unfinished
from flowclip_kit.distributed import ENGINES
from flowclip_kit.distributed.locks import sweep
from flowclip_kit.distributed.process_pool import PATIENCE, Result, again_while_held, ignore_sigint
from flowclip_kit.paths import root

# How often a task is done again whose worker died: nodes may go, but a run that kills every worker must end.
RETRIES = 4
_START = (
    "start one with ray start --head, and ray start --address HEAD:6379 on the other machines, all of them"
    " and this command with RAY_AUTH_MODE=token and one RAY_AUTH_TOKEN_PATH (see the README)"
)
TRIES = 2  # to start Ray, which gives itself 30 seconds
NAME = "FLOWCLIP_RAY"
OBJECT_STORE = 200 * 2**20  # bytes; tasks are small, and features are read from files


def need_engine(engine: str, ray_address: str | None = None) -> None:
    """Raise InputError for an unknown engine, one not installed, or an address that does not answer."""
    if engine not in ENGINES:
        raise InputError(f"--engine {engine!r} is unknown; use {', '.join(ENGINES)}")
    if ray_address is not None and engine != "ray":
        raise InputError(f"--ray-address {ray_address} belongs to --engine ray")
    if engine == "ray" and importlib.util.find_spec("ray") is None:
        raise InputError("--engine ray: Ray is not installed here; ./reproduce.sh extra ray adds it")
    if ray_address in (None, "auto"):
        return
    host, _, port = ray_address.rpartition(":")
    if not host or "://" in host or not port.isdigit():
        raise InputError(
            f"--ray-address {ray_address}: expected HOST:PORT, or auto, of a cluster with this machine in it"
        )
    try:  # Ray itself would try for minutes
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"--ray-address {ray_address}: nothing answers there ({error}); {_START}") from error


class RayEngine:
    """`Pool.map` on Ray.

    jobs: on a CPU the size of the local cluster, one CPU and thread a task; on GPUs how many tasks share one.
    address: of a running cluster that this machine belongs to; None: a local one for the time of the call.
    results: folder that all workers must share with us. others: what else they must see, asked for at the
    first task.

    Ray lives in a process of its own, the driver: it ends the process that it is in when its cluster is lost,
    and at times on Ctrl-C, with pages of its own.
    """

    def __init__(
        self,
        jobs: int,
        device: str,
        results: Path,
        address: str | None = None,
        others: Callable[[], Sequence[Path]] = tuple,
        threads: int = 1,
    ) -> None:
        self.jobs, self.device, self.address, self.threads = jobs, device, address, threads
        self._results, self._others = results, others
        self._mark: Path | None = None  # a file by which a worker knows our results folder
        self._driver: SpawnProcess | None = None
        self._talk: Any = None  # our end of the pipe to it
        self._name = uuid.uuid4().hex  # in the environment of all processes of a local cluster
        self._busy = False

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._stop(at_once=self._busy or error[0] is not None)
        finally:
            if self._mark is not None:
                self._mark.unlink(missing_ok=True)
                self._mark = None

    def map(self, work: Callable, tasks: list[tuple]) -> Iterator[Result]:
        """`again_while_held`, as `Pool.map` does; nothing is told meanwhile.

        A task whose worker or node is lost is done again. Raises InputError for a task that lost RETRIES more
        workers, for a machine that does not see our files, and where Ray cannot be started or is lost.
        """
        return again_while_held(lambda tasks: self._once(work, tasks), tasks)

    def _once(self, work: Callable, tasks: list[tuple]) -> Iterator[Result]:
        self._start()
        seen = [str(path) for path in (root() / "flowclip_kit", self._mark, *self._others())]
        with suppress(BrokenPipeError):  # what is heard next says why
            self._talk.send((work, tasks, RETRIES, seen, str(Path.cwd())))
        self._busy = True
        try:
            while (answer := self._hear()) is not None:
                number, result = answer
                yield tasks[number], result
        except GeneratorExit:  # whoever asked has enough
            if self._talk is not None:
                with suppress(BrokenPipeError, InputError):
                    self._talk.send(None)
                    while self._hear() is not None:
                        pass
            raise
        finally:
            self._busy = False

    def _hear(self) -> tuple[int, Any] | None:
        """The driver's next message: (number of a task, its result), or None when all are done."""
        try:
            message = self._talk.recv()
        except (EOFError, OSError) as error:
            raise InputError(
                "--engine ray: Ray has ended, as when one of its processes (raylet, gcs_server) or its"
                " machine is lost; what is finished is kept: run the same command again"
            ) from error
        if isinstance(message, BaseException):
            raise message
        return message

    def _start(self) -> None:
        if self._mark is None:
            self._results.mkdir(parents=True, exist_ok=True)
            self._mark = self._results / f"{unfinished(self._results / 'ray')}part"
            sweep(self._results, ".ray.*.part")
            self._mark.touch()
        for left in reversed(range(TRIES)):
            if self._driver is not None:
                return
            context = multiprocessing.get_context("spawn")
            self._talk, theirs = context.Pipe()
            arguments = (theirs, self.jobs, self.device, self.threads, self.address, self._name, self._mark)
            self._driver = context.Process(target=_drive, args=arguments, daemon=True, name="ray")
            with ignore_sigint():
                self._driver.start()
            theirs.close()
            try:
                self._hear()
            except InputError as error:
                self._stop(at_once=True)
                if not left or self.address or "does not start" not in str(error):
                    raise

    def _stop(self, at_once: bool) -> None:
        """End the driver and, with it, a local cluster; wait for what it is at unless `at_once`."""
        if self._driver is None:
            return
        self._talk.close()  # the driver reads it
        self._driver.join(0.0 if at_once and self.address is None else 20.0)
        if self._driver.is_alive():
            self._driver.kill()
        self._driver.join()
        self._driver.close()
        self._driver = self._talk = None
        self._busy = False
        if self.address is None:
            _end_all(self._name)


def _end_all(name: str) -> None:
    """End what is left of a local cluster. Ray's processes see in their own time that others are gone."""
    import psutil

    for _ in range(20):
        alive = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(NAME) == name and process.status() != psutil.STATUS_ZOMBIE:
                    process.kill()
                    alive.append(process)
        shutil.rmtree(_home(name), ignore_errors=True)
        if not alive:
            break
        psutil.wait_procs(alive, timeout=1)


def _home(name: str) -> Path:
    """Where a local cluster has its sockets and logs; short, as names of sockets must be."""
    return Path(tempfile.gettempdir()) / f"flowclip-ray-{name[:8]}"


# --- in the driver ------------------------------------------------------------------------------------------


def _drive(talk, jobs: int, device: str, threads: int, address: str | None, name: str, mark: Path) -> None:
    """The driver process: does the tasks that come through the pipe `talk` until that is closed."""

    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:  # the parent may be killed, and tell nobody
        parent.join()
        mark.unlink(missing_ok=True)
        if address is None:
            shutil.rmtree(_home(name), ignore_errors=True)
            _end_all(name)  # without which Ray ends this process, too
        os._exit(1)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    os.setsid()  # what a terminal sends is for the parent
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    try:
        if address is None:
            os.environ[NAME] = name
        ray = _connect(jobs, device, threads, address, name)
        talk.send(None)
    except InputError as error:
        talk.send(error)
        return
    with suppress(EOFError, OSError):
        while True:
            if (order := talk.recv()) is None:
                continue
            work, tasks, retries, seen, folder = order
            try:
                for message in _results(ray, work, tasks, retries, seen, folder, jobs, device, threads, talk):
                    talk.send(message)
                talk.send(None)
            except (EOFError, OSError) as error:
                if talk.poll():  # the parent is gone
                    break
                talk.send(error)
            except Exception as error:
                try:
                    talk.send(error)
                except Exception:  # one that cannot be sent
                    talk.send(RuntimeError(f"{type(error).__name__}: {error}"))
    if not parent.is_alive():
        watching.join()
    ray.shutdown()


def _results(
    ray, work, tasks, retries, seen, folder, jobs, device, threads, talk
) -> Iterator[tuple[int, object]]:
    """(number of a task, its result) in the order of completion. Raises EOFError when the parent is gone."""
    share = 0 if device == "cpu" else 1 / jobs
    run = ray.remote(num_cpus=1, num_gpus=share, max_retries=retries)(_on_a_worker())
    waiting, running = deque(enumerate(tasks)), dict[Any, int]()
    try:
        while waiting or running:
            # Twice what can run at once: no worker waits for us, and no store fills with tasks.
            while waiting and len(running) < 2 * max(1, int(ray.cluster_resources().get("CPU", 1))):
                number, task = waiting.popleft()
                packed = [ray.put((work, task))]  # in a list: opened by `run`, once it knows that it can
                running[run.remote(packed, work.__module__, seen, threads, folder)] = number
            done, _ = ray.wait(list(running), timeout=PATIENCE)
            for job in done:
                yield running.pop(job), _result(ray, job, jobs, retries)
            if talk.poll():
                talk.recv()  # it has enough; or is gone, which raises EOFError
                return
    finally:
        for job in running:
            ray.cancel(job, force=True)


def _result(ray, job, jobs: int, retries: int):
    try:
        blind, result = ray.get(job)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        why, lost = str(error).splitlines()[0], ("WorkerCrashedError", "NodeDiedError", "OutOfMemoryError")
        if type(error).__name__ not in lost:
            raise InputError(
                f"--engine ray: {why}; what is finished is kept: run the same command again"
            ) from error
        raise InputError(
            f"--engine ray: a run was lost {1 + retries} times with its worker, most likely for lack of"
            f" memory ({why}); what is finished is kept: run the same command again, on one machine with"
            f" fewer --jobs (now {jobs})"
        ) from error
    if blind:
        raise InputError(
            f"--engine ray: {blind}; the checkout, the results folder (--results) and FLOWCLIP_CACHE must be"
            " on a file system that all machines share, at the same paths, and all need the same packages"
        )
    return result


def _connect(jobs: int, device: str, threads: int, address: str | None, name: str):
    """Start a local cluster, or join the one at `address`; returns ray. Raises InputError if that fails."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "RAY_AUTH_MODE" not in os.environ:
        # Ray starts a cluster with a token by itself, where there is one, and then joins it without.
        token = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
        if "RAY_AUTH_TOKEN" in os.environ or Path(token).is_file():
            os.environ["RAY_AUTH_MODE"] = "token"
        elif address is None:  # or Ray would leave one in the user's home
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray

    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(root()), os.environ.get("PYTHONPATH")))),
        "OMP_NUM_THREADS": str(threads),  # before torch is imported
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
    }
    how: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": "ERROR",
        "runtime_env": {"env_vars": environment},
    }
    if (python := shlex.quote(sys.executable)) != sys.executable:  # Ray puts it into a shell's line as it is
        how["runtime_env"]["py_executable"] = python
    try:
        if address is None:
            os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "10")  # nobody starts it again
            how |= {
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE,
                "_temp_dir": str(_home(name)),
            }
            ray.init("local", num_cpus=jobs if device == "cpu" else None, **how)
        else:
            ray.init(address, **how)
    except Exception as error:  # Ray raises whatever it meets, and bare Exception
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        if address is None:
            raise InputError(
                f"--engine ray: Ray does not start here ({lines[0].rstrip('.')}); try again when the machine"
                " is less busy, or leave --engine ray out"
            ) from error
        raise InputError(
            f"--ray-address {address}: no Ray cluster there that takes us, with this machine in it"
            f" ({lines[0].rstrip('.')}); {_START}"
        ) from error
    return ray


def _on_a_worker() -> Callable:
    """What a Ray worker does. A nested function travels whole, so it can say what its machine lacks."""

    def run(
        packed: list, module: str, seen: list[str], threads: int, folder: str
    ) -> tuple[str | None, object]:
        """(None, result), or (what is amiss with this machine, None)."""
        import contextlib
        import importlib
        import os
        import socket
        from pathlib import Path

        import ray

        host = socket.gethostname()
        if unseen := [path for path in seen if not Path(path).exists()]:
            return f"{host} does not see {unseen[0]}", None
        with contextlib.suppress(OSError):
            os.chdir(folder)
        try:
            importlib.import_module("torch").set_num_threads(threads)
            importlib.import_module(module)
        except ImportError as error:
            return f"{host}: {error}", None
        work, task = ray.get(packed[0])
        return None, work(*task)

    return run
