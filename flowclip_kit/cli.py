"""The command line behind ./reproduce.sh."""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if __name__ == "__main__":  # before the imports below, which take a second: no signal may meet them unprepared
    from flowclip_kit import surroundings

    surroundings.settle()

from flowclip_core.config import PRECISIONS, PROFILES, TINY
from flowclip_core.data.labels import STYLES, split_names
from flowclip_core.errors import InputError, shown
from flowclip_core.paths import need_checkout, root, to_json
from flowclip_kit import surroundings
from flowclip_kit.datasets.extraction import rank
from flowclip_kit.datasets.formats import lines_of
from flowclip_kit.distributed.ray_pool import ENGINES
from flowclip_kit.experiments.catalogue import ALL_TARGETS, PAPER_TARGETS, TARGETS

if TYPE_CHECKING:
    from flowclip_kit.experiments import Options

# What the machine or its owner refuses us, and what to do about it.
_ROOM = "make room in {folder}, or name another folder (--results, FLOWCLIP_CACHE)"
_FOLDER = "name another folder than {folder} (--results, FLOWCLIP_CACHE), or have it opened to you"
REFUSED = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EIO: _ROOM,
    errno.EROFS: _FOLDER,
    errno.EACCES: _FOLDER,
    errno.EPERM: _FOLDER,
    errno.ENOTDIR: _FOLDER,
    errno.EEXIST: _FOLDER,
    errno.EFBIG: "raise the limit on the size of a file with ulimit -f unlimited",
    errno.EMFILE: "raise the limit on open files with ulimit -n 4096",
    errno.ENFILE: "close other programs: this machine allows no more open files",
    errno.ENOMEM: "take fewer --jobs, or raise the limit on memory with ulimit -v unlimited",
    errno.EAGAIN: "take fewer --jobs, or raise the limit on processes with ulimit -u unlimited",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; ./reproduce.sh --help shows all")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it did what was asked, 1 when a check failed, 2 when the input was wrong."""
    try:
        asked = _parse(arguments)
        if asked.run not in (_predict, _data, _extract, _doctor):
            need_checkout()
        if asked.run in (_target, _extract, _notebook) or asked.run is _doctor and asked.decoders_of:
            surroundings.need_room()
        elif asked.run is _predict:
            surroundings.need_limits()
        code = asked.run(asked)
        sys.stdout.flush()
        return code
    except InputError as error:
        return _refuse(error)
    except KeyboardInterrupt as error:
        if not rank(None, os.environ).number:
            surroundings.say_stopped()
        return 128 + getattr(error, "number", signal.SIGINT)
    except BrokenPipeError:
        _drop_stdout()
        return 141
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        if error.filename == surroundings.STDOUT:
            _drop_stdout()
            return _refuse(f"{error.filename} cannot be written: {error.strerror}; send it elsewhere")
        file = Path(error.filename or ".").absolute()
        what = f"cannot write {file}" if error.filename else "this machine refused"
        return _refuse(f"{what}: {error.strerror}; {REFUSED[error.errno].format(folder=file.parent)}")
    except MemoryError:
        return _refuse("out of memory; take fewer --jobs, or raise the limit with ulimit -v unlimited")


def _refuse(why: object) -> int:
    number = rank(None, os.environ).number
    print(f"reproduce.sh: {f'rank {number}: ' * bool(number)}{shown(' '.join(str(why).split()))}", file=sys.stderr)
    return 2


def _drop_stdout() -> None:
    """Nobody reads the output any more, or nothing can keep it: Python must not complain when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="./reproduce.sh", allow_abbrev=False)
    commands = parser.add_subparsers(dest="target", metavar="TARGET", required=True, parser_class=_Parser)
    shared = _Parser(add_help=False, allow_abbrev=False)
    shared.add_argument("--backbone")
    shared.add_argument("--pretrained")
    shared.add_argument("--decoder", default="pyav", choices=("pyav", "decord"))
    shared.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    stored = _Parser(add_help=False, allow_abbrev=False)  # what decides stored features, and how they are made
    stored.add_argument("--data-root", type=Path)
    stored.add_argument("--jobs", type=_positive)
    stored.add_argument("--decoders", type=_positive)
    stored.add_argument("--precision", choices=PRECISIONS)
    stored.add_argument("--incomplete", choices=("stop", "skip"))
    for name in (*ALL_TARGETS, "all"):
        command = commands.add_parser(name, parents=[shared, stored], allow_abbrev=False)
        command.add_argument("--profile", default="demo")
        command.add_argument("--dataset")
        command.add_argument("--results", type=Path)
        command.add_argument("--seeds", type=_positive)
        command.add_argument("--class-names", default="words", choices=STYLES)
        command.add_argument("--few-shot-list", type=Path, nargs="+", default=[], metavar="FILE")
        command.add_argument("--engine", default="local", choices=ENGINES)
        command.add_argument("--ray-address", metavar="ADDR")
        command.add_argument("--memory", type=_gigabytes, metavar="GB")
        command.add_argument("--record", action="store_true")
        command.set_defaults(run=_target)
    extract = commands.add_parser("extract", parents=[shared, stored], allow_abbrev=False)
    extract.add_argument("name")
    extract.add_argument("--profile", default="paper")
    extract.add_argument("--shard")
    extract.set_defaults(run=_extract)
    predict = commands.add_parser("predict", parents=[shared], allow_abbrev=False)
    predict.add_argument("video", type=Path)
    predict.add_argument("--labels")
    predict.add_argument("--label", action="append", default=[], metavar="NAME")
    predict.add_argument("--labels-file", type=Path, metavar="FILE")
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
    doctor = commands.add_parser("doctor", allow_abbrev=False)
    doctor.add_argument("--data-root", type=Path)
    doctor.add_argument("--backbone")
    doctor.add_argument("--pretrained")
    doctor.add_argument("--decoders", type=Path, metavar="DIR", dest="decoders_of")
    doctor.add_argument("--sample", type=_positive, default=20)
    doctor.set_defaults(run=_doctor)
    runs = (("list", _list), ("report", _report), ("verify", _verify))
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


def _gigabytes(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"gigabytes above 0 are needed, got {text!r}")
    return found


def _target(asked: argparse.Namespace) -> int:
    from flowclip_kit.experiments import ensure_all, results_folder
    from flowclip_kit.reporting import outputs

    options = _options(asked)
    usual = {"decoder": "pyav", "class_names": "words"}
    changes = ("dataset", "seeds", "backbone", "pretrained", "precision", "incomplete", "few_shot_list", *usual)
    changed = [name for name in changes if (getattr(asked, name) or None) != usual.get(name)]
    if asked.record and changed:
        raise InputError(f"--record keeps a profile as it is; leave out --{changed[0].replace('_', '-')}")
    if asked.record:  # on a GPU too
        options = replace(options, precision="float32")
    if asked.profile not in PROFILES:
        raise InputError(f"--profile {asked.profile!r} is unknown; use {', '.join(PROFILES)}")
    folder, everything = options.results_dir, asked.target == "all"
    _need_writable(folder, "--results")
    targets = PAPER_TARGETS if everything else (asked.target,)
    trained = [target for target in targets if target in TARGETS]
    results = ensure_all(trained, asked.profile, options) if trained else {}
    if rank(None, os.environ).number:  # the main rank writes and prints
        return 0
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
        print(f"reproduce.sh: {shown(error)}", file=sys.stderr)
        return 1
    if everything:
        print(outputs.verdict_counts(asked.profile, folder))
    else:
        print(outputs.as_text(asked.target, results.get(asked.target), results_folder(asked.profile, str(folder))))
    if asked.record:
        written += outputs.record(asked.profile, {target: results.get(target) for target in targets})
    print("\nwritten:")
    for path in dict.fromkeys(written):
        print(f"  {shown(_short(path))}")
    return 0


def _options(asked: argparse.Namespace) -> Options:
    """What `experiments` needs of a command's options."""
    from flowclip_kit.experiments import Options

    lists = tuple(getattr(asked, "few_shot_list", ()))
    results = getattr(asked, "results", None)
    given = {field.name: getattr(asked, field.name) for field in fields(Options) if hasattr(asked, field.name)}
    return Options(**given | {"few_shot_lists": lists, "results": results.absolute() if results else None})


def _extract(asked: argparse.Namespace) -> int:
    """Encode one data set ahead of its experiments: the whole, or one share of several processes' or machines'."""
    from flowclip_core.paths import cache_dir
    from flowclip_kit.experiments import runs

    share, options = rank(asked.shard, os.environ), _options(asked)
    runs.need_data(asked.name, options)
    _need_writable(cache_dir(), "FLOWCLIP_CACHE")
    began = time.monotonic()
    with runs.Workshop(runs.with_backbone(asked.profile, options), options) as workshop:
        wanted, filled, store = workshop.extract(asked.name, share)
    seconds = time.monotonic() - began
    print(f"{asked.name}: {wanted.total:,} videos" + (f", share {share.number + 1} of {share.of}" * (share.of > 1)))
    if filled.videos:
        images = filled.videos * wanted.config.frames * len(wanted.config.crops)
        print(
            f"encoded now   {filled.videos:,} videos, {images:,} pictures in {seconds:,.0f} s:"
            f" {images / seconds:,.1f} pictures/s; towers waited"
            f" {100 * filled.waited / max(filled.seconds, 1e-9):.1f} % of their time for decoding"
        )
    if store is None:
        missing = sum(len(names) for path, names in wanted.parts if not path.exists())
        print(f"not whole     {missing:,} videos are other shares'; the last to finish puts the store together")
        return 0
    size = store.features.size * store.features.itemsize
    print(f"features      {shown(store.folder)} ({size / 1e9:,.3f} GB, {wanted.config.precision})")
    if lost := store.failed:
        print(f"unreadable    {len(lost):,} videos are left out: {shown(store.folder / 'failed.csv')}")
        for line in lost[:3]:
            print(f"    {shown(line)}")
    return 0


def _data(asked: argparse.Namespace) -> int:
    """Fetch, unpack, arrange and count one real data set; 0 when it is complete."""
    from flowclip_kit.datasets import acquire
    from flowclip_kit.experiments.runs import Bar

    folder, bars = acquire.home(asked.name, asked.data_root), {}
    if short := acquire.shortage(asked.name, folder, None if asked.names else 2):
        print(f"{short}\n", flush=True)  # first, for whatever stops the rest
        _need_writable(folder, "--data-root")

    def progress(what: str, done: int, total: int | None) -> None:
        bars.setdefault(what, Bar(what, "")).update(done, total or done)

    try:
        found = acquire.prepare(asked.name, folder, asked.mirror, asked.open, asked.jobs, progress)
    finally:
        for bar in bars.values():
            bar.close()
    print(*map(shown, found.text(names=None if asked.names else 2).split("\n")), sep="\n")
    return 0 if found.complete else 1


def _report(asked: argparse.Namespace) -> int:
    from flowclip_kit.experiments import results_folder
    from flowclip_kit.reporting import outputs

    if asked.profile not in PROFILES:
        raise InputError(f"--profile {asked.profile!r} is unknown; use {', '.join(PROFILES)}")
    folder = (asked.results or root() / "results").absolute()
    _need_writable(folder, "--results")
    if asked.results and not any(results_folder(asked.profile, str(folder)).glob("*.csv")):
        raise InputError(f"--results {asked.results}: no tables of profile {asked.profile} in it; make them first")
    for path in outputs.write_report(asked.profile, folder):
        print(shown(_short(path)))
    return 0


def _notebook(asked: argparse.Namespace) -> int:
    """Run one notebook with parameters, strictly: an unknown name of either is an error, unlike in papermill."""
    from flowclip_kit.reporting import notebooks

    there = sorted(path.stem for path in (root() / "notebooks").glob("*.ipynb"))
    name = asked.name.removesuffix(".ipynb")
    if name not in there:
        raise InputError(f"notebook {asked.name!r} is unknown; use {', '.join(there)}")
    given = dict(text.partition("=")[::2] for text in asked.parameter)
    if unclear := [text for text in asked.parameter if "=" not in text]:
        raise InputError(f"-p {unclear[0]}: expected NAME=VALUE")
    folder, notebook = (asked.results or root() / "results").absolute(), root() / "notebooks" / f"{name}.ipynb"
    parameters = notebooks.typed(notebook, given, Path.cwd())
    _need_writable(folder, "--results")
    try:
        html = notebooks.execute(notebook, parameters, folder / f"{name}.html", cwd=root())
    except RuntimeError as error:
        print(f"reproduce.sh: {shown(error)}", file=sys.stderr)
        return 1
    print(shown(_short(html)))
    return 0


def _predict(asked: argparse.Namespace) -> int:
    from flowclip_core.predict import classify
    from flowclip_kit.experiments.runs import pick_device

    found = classify(
        asked.video,
        _labels(asked),
        checkpoint=asked.checkpoint,
        backbone=asked.backbone,
        pretrained=asked.pretrained or ("openai" if asked.backbone not in (None, TINY) else None),
        decoder=asked.decoder,
        device=pick_device(asked.device),
    )
    if asked.json:
        said = to_json("the answer", found.as_dict(), ensure_ascii=False, indent=1)
        # What does not print is escaped here too, as JSON does it.
        print(
            "".join(letter if letter.isprintable() or letter == "\n" else json.dumps(letter)[1:-1] for letter in said)
        )
        return 0
    print(shown(f"{found.video}: {found.frames} frames, {found.model}"))
    for number, (label, score) in enumerate(found.top[:5]):
        cosine = f"  cosine {found.cosines[number]:6.3f}" if found.cosines else ""
        print(f"  {score:6.1%}{cosine}  {shown(label)}")
    for note in found.notes:
        print(shown(note))
    return 0


def _labels(asked: argparse.Namespace) -> list[str] | None:
    """The class names of --labels, --label and --labels-file together; None where none of them is given."""
    if asked.labels is None and not asked.label and asked.labels_file is None:
        return None
    labels = [*split_names(asked.labels or ""), *asked.label]
    if asked.labels_file is not None:
        if not asked.labels_file.is_file():
            raise InputError(f"--labels-file {asked.labels_file}: no such file; expected one class name a line")
        labels += [line for _, line in lines_of(asked.labels_file)]
    return labels


def _list(asked: argparse.Namespace) -> int:
    from flowclip_kit.reporting import outputs

    print(outputs.overview(asked.profile))
    return 0


def _verify(asked: argparse.Namespace) -> int:
    from flowclip_kit import doctor
    from flowclip_kit.reporting import outputs

    checked, wrong = outputs.verify()
    for line in wrong:
        print(f"DIFFERENT  {shown(line)}", file=sys.stderr)
    print(f"{len(checked) - len(wrong)} of {len(checked)} recorded files follow from their runs")
    # What is here beside the recorded files is only read: the next call that needs it makes it again.
    kinds = (("feature stores", doctor.stores()), ("run records", doctor.records(root() / "results")))
    for what, (count, damaged) in kinds:
        for line in damaged:
            print(f"DAMAGED    {line}", file=sys.stderr)
        if count:
            print(f"{count - len(damaged)} of {count} {what} here are as they were written")
        wrong += damaged
    return 1 if wrong else 0


def _doctor(asked: argparse.Namespace) -> int:
    from flowclip_kit import doctor

    if asked.decoders_of:
        from flowclip_kit.experiments.runs import Bar

        with closing(Bar("reading with each decoder", "videos")) as bar:
            said = doctor.decoders(asked.decoders_of, asked.sample, bar.update)
        print(*map(shown, said.split("\n")), sep="\n")
        return 0
    found = doctor.look(_options(asked))
    print(*(shown(line) for finding in found for line in str(finding).split("\n")), sep="\n")
    return 1 if any(finding.fault for finding in found) else 0


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
    surroundings.in_main()
    surroundings.leave(main())
