"""What a training tells others while it runs: loss and learning rate of every step, in a file of its own."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flowclip_core.errors import InputError
from flowclip_kit.experiments.run_config import RunConfig

if TYPE_CHECKING:
    from flowclip_core.training.loop import Watch

TENSORBOARD = "tensorboard"


class LogTo(NamedTuple):
    """Where the logs of runs go: one CSV file a run in `folder`, or one folder of TensorBoard's."""

    folder: Path
    tensorboard: bool = False


def log_to(asked: str | Path | None, results: Path) -> LogTo | None:
    """What --log asks for: `tensorboard` means RESULTS/logs, any other word a folder for CSV files.

    Raises InputError where TensorBoard is asked for and not installed.
    """
    if asked is None:
        return None
    if str(asked) != TENSORBOARD:
        return LogTo(Path(asked).absolute())
    _tensorboard()
    return LogTo(results.absolute() / "logs", tensorboard=True)


def _tensorboard() -> Any:
    try:
        return importlib.import_module("torch.utils.tensorboard")
    except ImportError as error:
        raise InputError(
            f"--log tensorboard: {error.name or error} is not installed; install the package tensorboard into"
            " this environment, or name a folder for CSV files with --log DIR"
        ) from error


def run_name(config: RunConfig, key: str) -> str:
    """A run's name in logs: what tells it apart to a reader, then its key."""
    parts = [name for name in ("mmb", "map", "mcb") if getattr(config.model, name)]
    words = [config.dataset, f"split{config.split}", f"k{config.k}" if config.k else "all"]
    words += [
        config.method or "+".join(parts) or "baseline",
        f"lr{config.train.lr:g}" if config.train else "",
    ]
    name = "-".join(filter(None, [*words, "held-out" * config.held_out, f"seed{config.seed}", key]))
    return name.replace(" ", "_")


@contextmanager
def watched(to: LogTo | None, name: str) -> Iterator[Watch | None]:
    """What `train(log=...)` takes, for the run of this name; None where no log is kept.

    A log of the same name is written anew: a resumed training tells its first steps again.
    """
    if to is None:
        yield None
    elif to.tensorboard:
        with _tensorboard().SummaryWriter(str(to.folder / name), purge_step=0) as board:

            def tell(step: int, loss: float, rate: float) -> None:
                board.add_scalar("loss", loss, step)
                board.add_scalar("learning rate", rate, step)

            yield tell
    else:
        to.folder.mkdir(parents=True, exist_ok=True)
        # Line by line, so that a plot of a training under way is up to date.
        with (to.folder / f"{name}.csv").open("w", buffering=1, encoding="utf-8") as file:
            file.write("step,loss,rate\n")
            yield lambda step, loss, rate: file.write(f"{step},{loss:.9g},{rate:.9g}\n")
