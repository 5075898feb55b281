"""Ray in the place of worker processes: the same runs, here or on a cluster that may lose workers and nodes.

Ray is an extra (`./reproduce.sh extra ray`) and is imported with the first task.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from flowclip_core.errors import InputError
from flowclip_core.locks import Held, Waiting
from flowclip_core.paths import root
from flowclip_core.workers import PATIENCE

ENGINES = ("local", "ray")

# How often a task is done again whose worker died: nodes may go, but a run that kills every worker must end.
RETRIES = 4
_START = "start one with ray start --head, and ray start --address HEAD:6379 on the other machines"
OBJECT_STORE = 200 * 2**20  # bytes; tasks are small, and features are read from files


def need_engine(engine: str, ray_address: str | None = None) -> None:
    """Raises InputError for an engine that is unknown or not installed, and an address where nothing answers."""
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
    results: folder that all workers must share with us. others: what else they must see, asked for at the first task.
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
        self._ours = False  # whether it is we who connected to Ray

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(self, *error: object) -> None:
        if self._mark is not None:
            self._mark.unlink(missing_ok=True)
        if self._ours:
            import ray

            ray.shutdown()

    def map(self, work: Callable, tasks: list[tuple]) -> Iterator[tuple[tuple, object]]:
        """Yield (task, result) in the order of completion, as `Pool.map` does; nothing is told meanwhile.

        A task whose worker or node is lost is done again. Raises InputError for a task that lost RETRIES more workers,
        and for a machine that does not see our files.
        """
        if not tasks:
            return
        ray = self._start()
        seen = [str(path) for path in (root() / "flowclip_core", self._mark, *self._others())]
        run = ray.remote(
            num_cpus=1, num_gpus=0 if self.device == "cpu" else 1 / self.jobs, max_retries=RETRIES,
        )(_on_a_worker())  # fmt: skip
        jobs: dict = {}
        patience = None
        try:
            while tasks:
                waiting, held = deque(tasks), []
                while waiting or jobs:
                    # Twice what can run at once: no worker waits for us, and no store fills with tasks.
                    while waiting and len(jobs) < 2 * max(1, int(ray.cluster_resources().get("CPU", 1))):
                        task = waiting.popleft()
                        packed = [ray.put((work, task))]  # in a list: opened by `run`, once it knows that it can
                        jobs[run.remote(packed, work.__module__, seen, self.threads, str(Path.cwd()))] = task
                    done, _ = ray.wait(list(jobs), timeout=PATIENCE)
                    for job in done:
                        task = jobs.pop(job)
                        if isinstance(result := self._result(job), Held):
                            held.append((task, result))
                        else:
                            patience = None
                            yield task, result
                tasks = [task for task, _ in held]
                if held:
                    patience = patience or Waiting()
                    patience.go_on(held[0][1], PATIENCE)
        finally:
            for job in jobs:
                ray.cancel(job, force=True)

    def _result(self, job):
        import ray

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
                f"--engine ray: a run was lost {1 + RETRIES} times with its worker, most likely for lack of memory"
                f" ({why}); what is finished is kept: run the same command again, with fewer --jobs on a machine of"
                f" your own (now {self.jobs})"
            ) from error
        if blind:
            raise InputError(
                f"--engine ray: {blind}; the checkout, the results folder (--results) and FLOWCLIP_CACHE must lie on a"
                " file system that all machines share, at the same paths, and every machine needs the same packages"
            )
        return result

    def _start(self):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        if not ray.is_initialized():
            self._ours = True
            environment = {
                "PYTHONPATH": os.pathsep.join(filter(None, (str(root()), os.environ.get("PYTHONPATH")))),
                "OMP_NUM_THREADS": str(self.threads),  # before torch is imported
                "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
            }
            quiet = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": {"env_vars": environment}}
            if self.address is None:
                cpus = self.jobs if self.device == "cpu" else None
                ray.init(
                    "local", num_cpus=cpus, include_dashboard=False, object_store_memory=OBJECT_STORE, **quiet
                )  # fmt: skip
            else:
                try:
                    ray.init(self.address, **quiet)
                except (ConnectionError, RuntimeError, ValueError) as error:
                    why = str(error).strip().splitlines() or [type(error).__name__]
                    raise InputError(
                        f"--ray-address {self.address}: no Ray cluster with this machine in it ({why[0]}); {_START}"
                    ) from error
        if self._mark is None:
            self._results.mkdir(parents=True, exist_ok=True)
            self._mark = self._results / f".{uuid.uuid4().hex}.part"
            self._mark.touch()
        return ray


def _on_a_worker() -> Callable:
    """What a Ray worker does. A function inside a function travels whole, so that it can say what its machine lacks."""

    def run(packed: list, module: str, seen: list[str], threads: int, folder: str) -> tuple[str | None, object]:
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
