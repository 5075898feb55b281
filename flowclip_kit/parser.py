"""The words of the command line: every command and option with its help text, in one place.

It needs no packages, so that --help answers before anything is installed.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from flowclip_core.config import PRECISIONS
from flowclip_core.data.labels import STYLES
from flowclip_core.errors import InputError
from flowclip_kit.distributed import ENGINES
from flowclip_kit.experiments import catalogue, knobs
from flowclip_kit.profiles import PROFILES

# What a target is in a line; `experiments.catalogue` says what it trains.
TARGETS = {
    "table1": "hand-crafted prompts of three lengths, with and without the motion stream",
    "table2": "initialisations of the prompt vectors",
    "table3": "parameters and operations, counted; nothing is trained",
    "table4": "few-shot, against other methods",
    "table5": "few-shot, the parts one by one: the main experiment",
    "table6": "zero-shot, trained on Kinetics-400's role",
    "table7": "zero-shot between the two small data sets",
    "table8": "closed-set, all training videos",
    "figure3a": "the parts, closed-set",
    "figure3b": "frames T",
    "figure3c": "prompt vectors H",
    "figure3d": "temporal step s",
    "ablation": "a grid of your own: any rows, k, T, s, H, temperature, rate, training",
    "readings": "what the paper leaves open, one choice changed at a time, and two controls",
    "rivals": "other methods on the same features, lists, seeds and steps",
    "all": "table1 to figure3d, then the verdicts on the paper's claims and one report",
}
NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
BENCHMARKS = Path(__file__).resolve().parent / "bench"

EXAMPLES = """
examples:
  ./reproduce.sh table5                                # fresh machine, no data, no GPU
  ./reproduce.sh table5 --profile paper --data-root ~/videos --seeds 10
  ./reproduce.sh predict clip.mp4 --labels "climb stairs,sit down,wave"
  ./reproduce.sh table5 --help                         # the options of one command

set-up:
  The first call makes .venv in the checkout from requirements.lock (some 6 GB on Linux); it needs Python 3.11
  or newer and a package index. PYTHON=/path/to/python chooses the Python. An active virtual or conda
  environment that satisfies pyproject.toml is used as it is, and left as it is. pip's and uv's own settings
  (mirrors, caches) apply. Each package must be the file whose hash is in the lock. Where the lock has none
  for this Python or platform, set-up stops; FLOWCLIP_NEWEST=1 has it take the newest versions that
  pyproject.toml allows, without hashes.
"""


class _Parser(argparse.ArgumentParser):
    """One whose errors are InputErrors that know what was meant."""

    def __init__(self, **how) -> None:
        how.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **how)

    def error(self, message: str) -> NoReturn:
        meant = ""
        if choice := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            known = [name.strip(" '") for name in choice[2].split(",")]
            message = message.replace(f" (choose from {choice[2]})", "") if len(known) > 8 else message
            meant = _meant(choice[1], known)
        elif unknown := re.search(r"unrecognized arguments: (-\S+)", message):
            meant = _meant(unknown[1], self._option_string_actions)
        raise InputError(f"{message}{meant}; {self.prog} --help shows all")

    def parse_known_args(self, args=None, namespace=None):
        # argparse has the outermost parser say what nobody knew; the command's own knows what was meant.
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown and unknown[0].startswith("-") and not self._subparsers:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return namespace, unknown


def _meant(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, [*known], 1)
    return f", did you mean {near[0]}?" if near else ""


# Commands that hand their words to another program, which knows its own options.
HANDED_OVER = ("test", "lab", "bench", "extra")


def show_help(words: Sequence[str]) -> None:
    """Print the help that `words` ask for, if they do, and exit. InputError for an unknown command."""
    if not words or words[0] in ("help", "-h", "--help"):
        parser().parse_args(["--help"])
    own = words[0] == "bench" and len(words) != 2  # the benchmark's, not ours
    if not own and {"-h", "--help"} & {*words}:
        parser().parse_args([words[0], "--help"])


def check(words: Sequence[str]) -> None:
    """Raise InputError for words that the command line does not understand."""
    if words[0] not in HANDED_OVER:
        parser().parse_args(words)


def parser() -> argparse.ArgumentParser:
    """The whole of it: `target` is the command's name."""
    whole = _Parser(
        prog="./reproduce.sh",
        description="flowclip: the experiments of 'Seeing in Flowing' (ACM MM 2023), ours beside printed.",
        epilog=EXAMPLES,
    )
    commands = whole.add_subparsers(dest="target", metavar="TARGET", required=True, parser_class=_Parser)

    def command(name: str, about: str, *parents: _Parser) -> argparse.ArgumentParser:
        text = textwrap.fill(f"{about[0].upper()}{about[1:]}.", 110)
        return commands.add_parser(name, help=about, description=text, parents=parents)

    tower, stored = _tower(), _stored()
    for name, about in TARGETS.items():
        target = command(name, about, tower, stored)
        target.epilog = _knobs(name)
        target.add_argument(
            "--profile", default="demo", metavar="NAME",
            help=f"{', '.join(PROFILES)}: the demo's generated world needs no data, quick and paper take the"
            " real data (default: demo)",
        )  # fmt: skip
        target.add_argument(
            "-p", "--parameter", action="append", default=[], metavar="NAME=VALUE",
            help="change a knob of the experiment: JSON or bare words; a list makes an axis; give it again"
            " for more",
        )  # fmt: skip
        target.add_argument(
            "--name",
            default="",
            metavar="NAME",
            help="of such a change: the folder of its results is TARGET-NAME",
        )
        target.add_argument("--dataset", metavar="NAME", help="one data set only; folder: videos of your own")
        target.add_argument(
            "--results", type=Path, metavar="DIR", help="where tables, figures and records go"
        )
        target.add_argument(
            "--seeds", type=_positive, metavar="N", help="runs a cell (default: the profile's)"
        )
        target.add_argument(
            "--class-names", default="words", choices=STYLES,
            help="in prompts: 'Apply Eye Makeup', or 'ApplyEyeMakeup' as most peers have it (default: words)",
        )  # fmt: skip
        target.add_argument(
            "--few-shot-list", type=Path, nargs="+", default=[], metavar="FILE",
            help="table4, table5: published lists of training videos instead of seeded draws",
        )  # fmt: skip
        target.add_argument(
            "--engine", default="local", choices=ENGINES,
            help="what makes the runs: processes of this machine, or Ray, which survives the loss of some",
        )  # fmt: skip
        target.add_argument(
            "--ray-address", metavar="ADDR",
            help="HOST:PORT or auto: a running Ray cluster that this machine belongs to; all its machines see"
            " the checkout, --results and FLOWCLIP_CACHE at the same paths (default: Ray on this machine)",
        )  # fmt: skip
        target.add_argument(
            "--memory", type=_gigabytes, metavar="GB",
            help="for the prompt trees of all processes while they train (default: as the machine has it)",
        )  # fmt: skip
        target.add_argument(
            "--log", metavar="WHERE",
            help="loss and learning rate of every step of every training: a folder gets one CSV file a run;"
            " tensorboard writes event files into the results' folder logs (default: none)",
        )  # fmt: skip
        target.add_argument(
            "--record",
            action="store_true",
            help="also copy the results into results/recorded/, which is in git",
        )
    extract = command("extract", "encode a data set ahead of its experiments", tower, stored)
    extract.add_argument("name", help="hmdb51, ucf101, kinetics400 or folder")
    extract.add_argument(
        "--profile", default="paper", metavar="NAME", help="whose stored frames (default: paper)"
    )
    extract.add_argument(
        "--shard", metavar="i/n",
        help="this machine's share of n that share a cache folder; ranks of torchrun and tasks of srun take"
        " theirs by themselves",
    )  # fmt: skip
    predict = command("predict", "scores of your class names for your video", tower)
    predict.add_argument(
        "video", type=Path, nargs="+", help="a video file or a folder of them; several at once"
    )
    predict.add_argument(
        "--labels", metavar="A,B", help="class names; one that holds a comma in double quotes"
    )
    predict.add_argument(
        "--label", action="append", default=[], metavar="NAME", help="one class name; give it again"
    )
    predict.add_argument("--labels-file", type=Path, metavar="FILE", help="class names, one a line")
    predict.add_argument(
        "--checkpoint", type=Path, metavar="PARTS",
        help="trained parts: a file, a folder, or user/name of the hub; brings its own class names",
    )  # fmt: skip
    predict.add_argument("--json", action="store_true", help="print JSON; of several videos one line each")
    predict.add_argument(
        "--csv", action="store_true", help="print CSV: a line for every video and class name"
    )
    notebook = command("notebook", "run a notebook with parameters; an unknown one is an error")
    there = ", ".join(sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")))
    notebook.add_argument("name", help=there or "a notebook of the checkout")
    notebook.add_argument(
        "-p", "--parameter", action="append", default=[], metavar="NAME=VALUE",
        help="a value of the type that the notebook's own has; give it again for more",
    )  # fmt: skip
    notebook.add_argument("--results", type=Path, metavar="DIR", help="where the executed notebook goes")
    data = command("data", "fetch, unpack and count a data set; takes what is already there")
    data.add_argument("name", help="hmdb51, ucf101 or kinetics400")
    data.add_argument(
        "--data-root", type=Path, required=True, metavar="DIR", help="folder that holds the data sets"
    )
    data.add_argument("--mirror", metavar="URL", help="another server")
    data.add_argument("--open", action="store_true", help="decode and hash every video")
    data.add_argument("--names", action="store_true", help="list all that are missing")
    data.add_argument("--jobs", type=_positive, metavar="N", help="threads (default: all cores)")
    doctor = command("doctor", "what this machine has and lacks: packages, device, disk, weights, data")
    doctor.add_argument("--data-root", type=Path, metavar="DIR", help="folder that holds the real data sets")
    doctor.add_argument("--backbone", metavar="NAME", help="whose weights to look for")
    doctor.add_argument("--pretrained", metavar="WEIGHTS", help="which of them")
    doctor.add_argument(
        "--decoders", type=Path, metavar="DIR", dest="decoders_of",
        help="read videos in DIR with each decoder and say where, and how far, they disagree",
    )  # fmt: skip
    doctor.add_argument(
        "--sample", type=_positive, default=20, metavar="N", help="how many videos (default: 20)"
    )
    listed = command("list", "what each target trains, what it cost, and what it will take on this machine")
    listed.add_argument("--profile", default="demo", metavar="NAME", help="of which profile (default: demo)")
    report = command("report", "one HTML file with every table, figure, verdict and cost that is there")
    report.add_argument("--profile", default="demo", metavar="NAME", help="of which profile (default: demo)")
    report.add_argument("--results", type=Path, metavar="DIR", help="where the tables are")
    report.add_argument(
        "--recorded", action="store_true", help="of the recorded runs, even where there are others"
    )
    report.add_argument(
        "--card",
        action="store_true",
        help="write card.md instead: a data set card of the tables, for the Hugging Face hub",
    )
    verify = command("verify", "rebuild every recorded table, figure and verdict; fails on any difference")
    verify.add_argument(
        "--rerun", type=_positive, metavar="N",
        help="also make N recorded runs again, of each kind one where N allows; fails where an untrained one"
        " differs, or a trained one moved twice as far as rounding moves its like (bench rounding)",
    )  # fmt: skip
    verify.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the choice of these runs (default: 0)"
    )
    verify.add_argument(
        "--renew", action="store_true", help="first write what no longer follows from the recorded runs"
    )
    book = command("book", "the pages and notebooks as an HTML book in results/book; needs extra book")
    book.add_argument("--results", type=Path, metavar="DIR", help="the book goes into DIR/book")
    # These have their help alone here: `programs` hands their words over.
    lab = command("lab", "JupyterLab on the notebooks, on this machine only; Ctrl-C ends it")
    lab.add_argument("options", nargs="*", help="JupyterLab's own options")
    test = command("test", "unit tests, then every notebook")
    test.add_argument(
        "--browser", action="store_true", help="also move every control in a real browser (Chromium)"
    )
    test.add_argument(
        "--slow", action="store_true", help="also the tests that kill and repeat for minutes, as CI does"
    )
    test.add_argument("--screenshots", metavar="DIR", help="where the browser's pictures go")
    test.add_argument("options", nargs="*", help="pytest's own options and files, for the unit tests")
    extra = command(
        "extra", "add what Ray, test --browser or book need to the environment; it changes nothing there"
    )
    extra.add_argument(
        "what", choices=("ray", "browser", "book"), help="for --engine ray; for test --browser; for book"
    )
    bench = command("bench", "ratios to plain ways of the same work; bench NAME --help shows its options")
    names = sorted(path.stem for path in BENCHMARKS.glob("[a-z]*.py"))
    bench.add_argument("what", help=", ".join(names))
    bench.add_argument("--record", action="store_true", help="write the figures into their page")
    return whole


def _knobs(target: str) -> str | None:
    """What -p takes, for the help of a target."""
    if target not in catalogue.TARGETS:
        return None
    lines = [f"parameters of {target} (-p NAME=VALUE), with their defaults; none stands for the profile's:"]
    for name, default in catalogue.parameters(target).items():
        words = json.dumps(default) if default is not None else "none"
        text = f"{name} = {words}: {knobs.KNOBS[name].about}"
        lines += textwrap.wrap(
            text, 108, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False
        )
    return "\n".join(lines)


def _tower() -> _Parser:
    tower = _Parser(add_help=False)
    tower.add_argument(
        "--backbone", metavar="NAME", help="open_clip model, e.g. ViT-B-16 (OpenAI's, with QuickGELU)"
    )
    tower.add_argument(
        "--pretrained", metavar="WEIGHTS",
        help="an open_clip tag, a local file, or none for seeded random ones (default: the profile's)",
    )  # fmt: skip
    tower.add_argument(
        "--decoder", default="pyav", choices=("pyav", "decord"), help="video reader (default: pyav)"
    )
    tower.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="where to compute (default: auto)"
    )
    return tower


def _stored() -> _Parser:
    """What decides stored features, and how they are made."""
    stored = _Parser(add_help=False)
    stored.add_argument("--data-root", type=Path, metavar="DIR", help="folder that holds the real data sets")
    stored.add_argument(
        "--jobs", type=_positive, metavar="N", help="processes at a time (default: one a core or GPU)"
    )
    stored.add_argument(
        "--decoders", type=_positive, metavar="N",
        help="decoding processes of each GPU (default: its share of the cores) or CPU worker (default: none)",
    )  # fmt: skip
    stored.add_argument(
        "--precision", choices=PRECISIONS,
        help="of the image tower (default: float32; the others are faster on a GPU and lose small motion)",
    )  # fmt: skip
    stored.add_argument(
        "--incomplete", choices=("stop", "skip"),
        help="listed videos that are missing or unreadable: stop, or go on without them (default: stop;"
        " kinetics400: skip)",
    )  # fmt: skip
    return stored


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 on is needed, got {text!r}")
    return int(text)


def _gigabytes(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"gigabytes above 0 are needed, got {text!r}")
    return found
