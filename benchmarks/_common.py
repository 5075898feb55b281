"""What the benchmarks share: ways timed in turn, the processor's matmul peak, blocks of benchmarks/README.md."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

from flowclip_core.errors import InputError
from flowclip_core.paths import root, write_atomically

README = "benchmarks/README.md"


def in_turn(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round; every round takes all of them, so that a slow moment hits all alike."""
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


def matmul_peak(device: str, dtype, rounds: int = 5, run: Callable = map, lanes: int = 1) -> float:
    """GFLOP/s of the best square product that torch gives here, the largest of `rounds` and three sizes.

    run, lanes: see `loop.lanes_of`; every lane then multiplies its own matrices, all at once.
    """
    import torch

    best = 0.0
    for size in (1024, 1536, 2048) if device == "cpu" else (4096, 8192):
        a = torch.randn(size, size, device=device, dtype=dtype)

        def product(_: int, a=a) -> None:
            (a @ a).sum().item() if device != "cpu" else a @ a

        for _ in range(rounds + 1):  # the first warms up
            began = time.perf_counter()
            list(run(product, range(lanes)))
            best = max(best, lanes * 2 * size**3 / (time.perf_counter() - began) / 1e9)
    return best


def record(part: str, command: str, said: str) -> None:
    """Put a benchmark's text between its marks in benchmarks/README.md. Raises InputError where they are missing."""
    readme = root() / README
    begin, end = f"<!-- {part}: made by ./reproduce.sh bench {command} --record -->", f"<!-- {part}: end -->"
    before, found, rest = readme.read_text().partition(begin)
    if not found or end not in rest:
        raise InputError(f"{readme}: lacks the marks {begin} and {end}")
    write_atomically(readme, f"{before}{begin}\n\n```text\n{said}\n```\n\n{end}{rest.partition(end)[2]}")
