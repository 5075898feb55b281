"""The command line behind ./reproduce.sh."""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from flowclip_core.config import PROFILES, TINY
from flowclip_core.errors import InputError
from flowclip_core.experiments.catalogue import PAPER_TARGETS, TARGETS
from flowclip_core.paths import root

CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; ./reproduce.sh --help shows all")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it did what was asked, 1 when a check failed, 2 when the input was wrong."""
    try:
        asked = _parse(arguments)
        code = asked.run(asked)
        sys.stdout.flush()
        return code
    except InputError as error:
        print(f"reproduce.sh: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("reproduce.sh: stopped; finished runs are kept, the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read the output has gone; without this Python would complain when it flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        print(f"reproduce.sh: cannot write: {error}", file=sys.stderr)
        return 2


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="./reproduce.sh", allow_abbrev=False)
    commands = parser.add_subparsers(dest="target", metavar="TARGET", required=True, parser_class=_Parser)
    shared = _Parser(add_help=False, allow_abbrev=False)
    shared.add_argument("--backbone")
    shared.add_argument("--pretrained")
    shared.add_argument("--decoder", default="pyav", choices=("pyav", "decord"))
    shared.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    for name in (*dict.fromkeys((*PAPER_TARGETS, *TARGETS)), "all"):
        command = commands.add_parser(name, parents=[shared], allow_abbrev=False)
        command.add_argument("--profile", default="demo")
        command.add_argument("--data-root", type=Path)
        command.add_argument("--dataset")
        command.add_argument("--results", type=Path)
        command.add_argument("--seeds", type=_positive)
        command.add_argument("--jobs", type=_positive)
        command.add_argument("--record", action="store_true")
        command.set_defaults(run=_target)
    predict = commands.add_parser("predict", parents=[shared], allow_abbrev=False)
    predict.add_argument("video", type=Path)
    predict.add_argument("--labels")
    predict.add_argument("--checkpoint", type=Path)
    predict.add_argument("--json", action="store_true")
    predict.set_defaults(run=_predict)
    notebook = commands.add_parser("notebook", allow_abbrev=False)
    notebook.add_argument("name")
    notebook.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE")
    notebook.add_argument("--results", type=Path)
    notebook.set_defaults(run=_notebook)
    data = commands.add_parser("data", allow_abbrev=False)
    data.add_argument("name")
    data.add_argument("--data-root", type=Path, required=True)
    data.add_argument("--mirror")
    data.add_argument("--open", action="store_true")
    data.add_argument("--names", action="store_true")
    data.add_argument("--jobs", type=_positive)
    data.set_defaults(run=_data)
    runs = (("list", _list), ("report", _report), ("verify", _verify), ("doctor", _doctor))
    for name, run in runs:
        command = commands.add_parser(name, allow_abbrev=False)
        if name in ("list", "report"):
            command.add_argument("--profile", default="demo")
        if name == "report":
            command.add_argument("--results", type=Path)
        command.set_defaults(run=run)
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 on is needed, got {text!r}")
    return int(text)


def _target(asked: argparse.Namespace) -> int:
    from flowclip_core.experiments import Options, ensure_all, results_folder
    from flowclip_core.reporting import outputs

    options = Options(
        data_root=asked.data_root,
        dataset=asked.dataset,
        results=asked.results.absolute() if asked.results else None,
        seeds=asked.seeds,
        device=asked.device,
        jobs=asked.jobs,
        decoder=asked.decoder,
        backbone=asked.backbone,
        pretrained=asked.pretrained,
    )
    changed = [name for name in ("dataset", "seeds", "backbone", "pretrained") if getattr(asked, name)]
    if asked.record and (changed or asked.decoder != "pyav"):
        raise InputError(f"--record keeps a profile as it is; leave out --{changed[0] if changed else 'decoder'}")
    if asked.profile not in PROFILES:
        raise InputError(f"--profile {asked.profile!r} is unknown; use {', '.join(PROFILES)}")
    folder, everything = options.results_dir, asked.target == "all"
    _need_writable(folder, "--results")
    targets = PAPER_TARGETS if everything else (asked.target,)
    trained = [target for target in targets if target in TARGETS]
    results = ensure_all(trained, asked.profile, options) if trained else {}
    written = []
    try:
        for target in targets:
            if everything:
                print(f"reproduce.sh: writing {target}", file=sys.stderr)
            if target in results:
                written += outputs.write(target, asked.profile, results[target], folder)
            else:
                written += outputs.write_costs(asked.profile, folder)
        if everything:
            written += outputs.write_verdicts(asked.profile, folder)
            written += outputs.write_report(asked.profile, folder)
    except RuntimeError as error:  # a cell of the notebook failed; the message is one line that says which
        print(f"reproduce.sh: {error}", file=sys.stderr)
        return 1
    if everything:
        print(outputs.verdict_counts(asked.profile, folder))
    else:
        print(outputs.as_text(asked.target, results.get(asked.target), results_folder(asked.profile, str(folder))))
    if asked.record:
        written += outputs.record(asked.profile, {target: results.get(target) for target in targets})
    print("\nwritten:")
    for path in dict.fromkeys(written):
        print(f"  {_short(path)}")
    return 0


def _data(asked: argparse.Namespace) -> int:
    """Fetch, unpack, arrange and count one real data set; 0 when it is complete."""
    from flowclip_core.data import prepare
    from flowclip_core.experiments.runs import Bar

    folder, bars = prepare.home(asked.name, asked.data_root), {}
    _need_writable(folder, "--data-root")

    def progress(what: str, done: int, total: int | None) -> None:
        bars.setdefault(what, Bar(what, "")).update(done, total or done)

    try:
        found = prepare.prepare(asked.name, folder, asked.mirror, asked.open, asked.jobs, progress)
    finally:
        for bar in bars.values():
            bar.close()
    print(found.text(names=None if asked.names else 2))
    return 0 if found.complete else 1


def _report(asked: argparse.Namespace) -> int:
    from flowclip_core.experiments import results_folder
    from flowclip_core.reporting import outputs

    if asked.profile not in PROFILES:
        raise InputError(f"--profile {asked.profile!r} is unknown; use {', '.join(PROFILES)}")
    folder = (asked.results or root() / "results").absolute()
    _need_writable(folder, "--results")
    if asked.results and not any(results_folder(asked.profile, str(folder)).glob("*.csv")):
        raise InputError(f"--results {asked.results}: no tables of profile {asked.profile} in it; make them first")
    for path in outputs.write_report(asked.profile, folder):
        print(_short(path))
    return 0


def _notebook(asked: argparse.Namespace) -> int:
    """Run one notebook with parameters, strictly: an unknown name of either is an error, unlike in papermill."""
    from flowclip_core.reporting import notebooks

    there = sorted(path.stem for path in (root() / "notebooks").glob("*.ipynb"))
    name = asked.name.removesuffix(".ipynb")
    if name not in there:
        raise InputError(f"notebook {asked.name!r} is unknown; use {', '.join(there)}")
    given = dict(text.partition("=")[::2] for text in asked.parameter)
    if unclear := [text for text in asked.parameter if "=" not in text]:
        raise InputError(f"-p {unclear[0]}: expected NAME=VALUE")
    folder = (asked.results or root() / "results").absolute()
    _need_writable(folder, "--results")
    try:
        html = notebooks.execute(root() / "notebooks" / f"{name}.ipynb", given, folder / f"{name}.html", cwd=root())
    except RuntimeError as error:
        print(f"reproduce.sh: {error}", file=sys.stderr)
        return 1
    print(_short(html))
    return 0


def _predict(asked: argparse.Namespace) -> int:
    from flowclip_core.experiments.runs import pick_device
    from flowclip_core.predict import classify

    labels = asked.labels.split(",") if asked.labels is not None else None
    found = classify(
        asked.video,
        labels,
        checkpoint=asked.checkpoint,
        backbone=asked.backbone,
        pretrained=asked.pretrained or ("openai" if asked.backbone not in (None, TINY) else None),
        decoder=asked.decoder,
        device=pick_device(asked.device),
    )
    if asked.json:
        print(json.dumps(found.as_dict(), ensure_ascii=False, indent=1))
        return 0
    print(f"{found.video}: {found.frames} frames, {found.model}")
    for label, score in found.top[:5]:
        print(f"  {score:6.1%}  {label}")
    for note in found.notes:
        print(note)
    return 0


def _list(asked: argparse.Namespace) -> int:
    from flowclip_core.reporting import outputs

    print(outputs.overview(asked.profile))
    return 0


def _verify(asked: argparse.Namespace) -> int:
    from flowclip_core.reporting import outputs

    checked, wrong = outputs.verify()
    for line in wrong:
        print(f"DIFFERENT  {line}", file=sys.stderr)
    print(f"{len(checked) - len(wrong)} of {len(checked)} recorded files follow from their runs")
    return 1 if wrong else 0


def _doctor(asked: argparse.Namespace) -> int:
    from flowclip_core import environment
    from flowclip_core.demo import world
    from flowclip_core.experiments.records import software
    from flowclip_core.experiments.runs import pick_device
    from flowclip_core.paths import cache_dir
    from flowclip_core.workers import default_jobs

    for name, value in software().items():
        print(f"{name:16} {value}")
    lacking = environment.missing(environment.requirements())
    print(f"{'packages':16} {'complete' if not lacking else 'missing: ' + ', '.join(lacking)}")
    print(f"{'device':16} {pick_device('auto')}, {default_jobs()} cores")
    cache = cache_dir()
    place = next(folder for folder in (cache, *cache.parents) if folder.exists())
    print(f"{'cache':16} {cache} ({shutil.disk_usage(place).free / 2**30:.0f} GiB free)")
    drawn = [name for name in world.NAMES if (world.default_root() / name / "complete.txt").exists()]
    print(f"{'demo world':16} {', '.join(drawn) or 'not drawn yet (table5 does it)'}")
    return 1 if lacking else 0


def _need_writable(folder: Path, option: str) -> None:
    """Raise InputError at once, rather than after minutes of work, where no file can be written into `folder`."""
    try:
        tempfile.TemporaryFile(dir=next(place for place in (folder, *folder.parents) if place.exists())).close()
    except OSError as error:
        raise InputError(f"{option} {folder}: cannot be written ({error.strerror}); name another folder") from error


def _short(path: Path) -> str:
    """Relative to the caller's folder where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)


if __name__ == "__main__":
    sys.exit(main())
