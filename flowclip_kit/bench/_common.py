"""What the benchmarks share: a command line, ways timed in turn, the matmul peak, blocks of the README."""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from flowclip_core.errors import InputError, notice
from flowclip_core.files import write_atomically
from flowclip_kit import readme_parts
from flowclip_kit.paths import root

README = "flowclip_kit/bench/README.md"
MATRICES = {"cpu": (1024, 1536, 2048), "cuda": (4096, 8192)}  # sides of those that the peak is sought with
DEVICE: dict[str, Any] = {"default": "auto", "choices": ("auto", "cpu", "cuda")}
Options = argparse.Namespace


def run(
    command: str,
    measure: Callable[[Options], str],
    options: Mapping[str, dict[str, Any]],
    page: str = README,
) -> int:
    """A benchmark's command line: print what `measure` returns and, with --record, write it into the page.

    command: the benchmark's name, then its arguments on the page. options: what `add_argument` takes, by
    flag. Returns the exit code, 2 for wrong input.
    """
    name = command.partition(" ")[0]
    parser = argparse.ArgumentParser(prog=f"./reproduce.sh bench {name}", allow_abbrev=False)
    for flag, settings in options.items():
        parser.add_argument(flag, **settings)
    parser.add_argument("--record", action="store_true", help=f"write the figures into {page}")
    chosen = parser.parse_args()
    try:
        text = measure(chosen)
    except InputError as error:
        notice(str(error))
        return 2
    print(text)
    if chosen.record:
        record(name, command, text, page)
    return 0


def alone(work: Callable, *arguments: object) -> Any:
    """The result of `work` in a process of its own, whose memory is then its alone."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def peak_mib() -> float:
    """Peak resident memory of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)


def in_turn(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round; a round takes all of them, so that a slow moment hits all alike."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            spent[name].append(time.perf_counter() - began)
    return spent


def ratio(slow: list[float], fast: list[float]) -> tuple[float, float, float]:
    """Median, least and largest of the rounds' ratios."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def matmul_peak(device: str, dtype, run: Callable = map, lanes: int = 1) -> Callable[[float], float]:
    """GFLOP/s of torch's matrix product, kept up for so many seconds, of the square size that is fastest
    here.

    run, lanes: see `loop.lanes_of`; every lane multiplies, all at once. A share of the peak is a
    ratio of two rates over equal times: a machine whose speed wavers has better moments than either keeps up.
    """
    import torch

    def rate(size: int, times: int) -> float:
        a = torch.randn(size, size, device=device, dtype=dtype)

        def products(_: int) -> None:
            for _ in range(times):
                result = a @ a
            result.sum().item()  # a GPU has to be done

        began = time.perf_counter()
        list(run(products, range(lanes)))
        return lanes * times * 2 * size**3 / (time.perf_counter() - began) / 1e9

    sizes = MATRICES["cpu" if device == "cpu" else "cuda"]
    rates = {size: max(rate(size, 3) for _ in range(3)) for size in sizes}
    size = max(rates, key=rates.__getitem__)
    return lambda seconds: rate(size, max(1, round(seconds * rates[size] * 1e9 / (lanes * 2 * size**3))))


def record(part: str, command: str, text: str, page: str = README) -> None:
    """Put a benchmark's text between its marks in a page. Raises InputError where they are missing."""
    marks = f"<!-- {part}: made by ./reproduce.sh bench {command} --record -->", f"<!-- {part}: end -->"
    between(root() / page, marks, f"\n```text\n{text}\n```\n")


def between(page: Path, marks: tuple[str, str], text: str) -> None:
    """Put a text between two marks of a page. Raises InputError where they are missing."""
    before, after = readme_parts.around(page, marks)
    write_atomically(page, f"{before}\n{text}\n{after}")
