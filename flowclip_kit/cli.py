"""The command line behind ./reproduce.sh."""

from __future__ import annotations

import argparse
import csv
import errno
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flowclip_core.config import TINY
from flowclip_core.errors import InputError, VideoError, shown
from flowclip_core.files import to_json
from flowclip_kit import programs, surroundings
from flowclip_kit.class_texts import split_names
from flowclip_kit.datasets.layouts import lines_of
from flowclip_kit.distributed.rank import rank
from flowclip_kit.experiments import knobs
from flowclip_kit.experiments.catalogue import PAPER_TARGETS, TARGETS
from flowclip_kit.experiments.training_log import log_to
from flowclip_kit.parser import parser, show_help
from flowclip_kit.paths import need_checkout, root
from flowclip_kit.profiles import PROFILES

if TYPE_CHECKING:
    from flowclip_core.predict import Prediction
    from flowclip_kit.experiments import Experiment, Options

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it did what was asked, 1 when a check failed, 2 when the input was wrong."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if words and words[0] in programs.COMMANDS:
            show_help(words)
            need_checkout()
            return programs.COMMANDS[words[0]](words[1:])
        asked = parser().parse_args(words)
        run = COMMANDS.get(asked.target, _target)
        if run not in (_predict, _data, _extract, _doctor):
            need_checkout()
        if run in (_target, _extract, _notebook) or (run is _doctor and asked.decoders_of):
            surroundings.need_room()
        elif run is _predict:
            surroundings.need_limits()
        code = run(asked)
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
    print(
        f"reproduce.sh: {f'rank {number}: ' * bool(number)}{shown(' '.join(str(why).split()))}",
        file=sys.stderr,
    )
    return 2


def _drop_stdout() -> None:
    """Nobody reads the output any more, or nothing can keep it: Python must not complain when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _target(asked: argparse.Namespace) -> int:
    from flowclip_kit.experiments import ensure_all, results_folder
    from flowclip_kit.reporting import outputs

    options = _options(asked)
    usual = {"decoder": "pyav", "class_names": "words"}
    changes = (
        "dataset",
        "backbone",
        "pretrained",
        "precision",
        "incomplete",
        "few_shot_list",
        *usual,
    )
    changed = [name for name in changes if (getattr(asked, name) or None) != usual.get(name)]
    if asked.record and changed:
        raise InputError(f"--record keeps a profile as it is; leave out --{changed[0].replace('_', '-')}")
    if asked.record:  # on a GPU too
        options = replace(options, precision="float32")
    if asked.profile not in PROFILES:
        raise InputError(f"--profile {asked.profile!r} is unknown; use {', '.join(PROFILES)}")
    fewest = PROFILES[asked.profile].seeds
    if asked.record and asked.seeds is not None and asked.seeds < fewest:
        raise InputError(f"--record --seeds {asked.seeds}: profile {asked.profile} has {fewest} runs a cell")
    folder, everything, began = options.results_dir, asked.target == "all", time.monotonic()
    given = knobs.from_shell(asked.parameter)
    if (given or asked.name) and asked.target not in TARGETS:
        raise InputError(f"-p and --name: {asked.target} takes no parameters")
    if asked.record and (given or asked.name):
        raise InputError("--record keeps a profile as it is; leave out -p and --name")
    _need_writable(folder, "--results")
    if options.log and (log := log_to(options.log, folder)):
        _need_writable(log.folder, "--log")
    targets = PAPER_TARGETS if everything else (asked.target,)
    trained = [target for target in targets if target in TARGETS]
    results = (
        ensure_all(trained, asked.profile, options, given, asked.name, say=_announce(asked.jobs))
        if trained
        else {}
    )
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
        print(
            outputs.as_text(
                asked.target, results.get(asked.target), results_folder(asked.profile, str(folder))
            )
        )
    if asked.record:
        written += outputs.record(asked.profile, {target: results.get(target) for target in targets})
    print("\nwritten:")
    for path in dict.fromkeys(written):
        print(f"  {shown(_short(path))}")
    sys.stdout.flush()
    page = next((path for path in reversed(written) if path.suffix == ".html"), written[0])
    print(f"reproduce.sh: {_duration(time.monotonic() - began)}; open {shown(_short(page))}", file=sys.stderr)
    return 0


def _announce(jobs: int | None) -> Callable[[list[Experiment]], None]:
    """Says what will be run, and about how long that takes, before any of it."""
    from flowclip_kit.distributed.process_pool import default_jobs
    from flowclip_kit.experiments import estimates

    def say(experiments: list[Experiment]) -> None:
        cells = [cell for experiment in experiments for cell in experiment.cells()]
        runs, seconds = estimates.expected(experiments[0].profile, cells, jobs or default_jobs())
        names = sorted({name for experiment in experiments for name in experiment.profile.roles.values()})
        about = experiments[0].target if len(experiments) == 1 else f"{len(experiments)} targets"
        price = f"about {_duration(seconds)} if none is made yet" if seconds == seconds else (
            f"./reproduce.sh list --profile {experiments[0].profile.name} measures how long they take here"
        )  # fmt: skip
        print(
            f"reproduce.sh: {about}: {runs} runs on {', '.join(names)}; {price}", file=sys.stderr, flush=True
        )

    return say


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _options(asked: argparse.Namespace) -> Options:
    """What `experiments` needs of a command's options."""
    from flowclip_kit.experiments import Options

    lists = tuple(getattr(asked, "few_shot_list", ()))
    results = getattr(asked, "results", None)
    given = {
        field.name: getattr(asked, field.name) for field in fields(Options) if hasattr(asked, field.name)
    }
    return Options(**given | {"few_shot_lists": lists, "results": results.absolute() if results else None})


def _extract(asked: argparse.Namespace) -> int:
    """Encode one data set ahead of its experiments: the whole, or one share of several processes' or
    machines'."""
    from flowclip_kit.datasets.feature_store import ARRAY
    from flowclip_kit.experiments import runs
    from flowclip_kit.experiments.experiment import need_data, with_backbone
    from flowclip_kit.paths import cache_dir

    share, options = rank(asked.shard, os.environ), _options(asked)
    need_data(asked.name, options)
    _need_writable(cache_dir(), "FLOWCLIP_CACHE")
    began = time.monotonic()
    with runs.Workshop(with_backbone(asked.profile, options), options) as workshop:
        wanted, filled, store = workshop.extract(asked.name, share)
    seconds = time.monotonic() - began
    print(
        f"{asked.name}: {wanted.total:,} videos"
        + (f", share {share.number + 1} of {share.of}" * (share.of > 1))
    )
    if filled.videos:
        images = filled.videos * wanted.config.frames * len(wanted.config.crops)
        print(
            f"encoded now   {filled.videos:,} videos, {images:,} pictures in {seconds:,.0f} s:"
            f" {images / seconds:,.1f} pictures/s; towers waited"
            f" {100 * filled.waited / max(filled.seconds, 1e-9):.1f} % of their time for decoding"
        )
    if store is None:
        missing = sum(len(names) for path, names in wanted.parts if not path.exists())
        print(
            f"not whole     {missing:,} videos are other shares'; the last to finish puts the store together"
        )
        return 0
    size = (store.folder / ARRAY).stat().st_size
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

    folder, bars = acquire.home(asked.name, asked.data_root), dict[str, Bar]()
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
    there = results_folder(asked.profile, str(folder))
    if asked.results and not asked.recorded and not any([*there.glob("*.csv"), *there.glob("*-*/*.csv")]):
        raise InputError(
            f"--results {asked.results}: no tables of profile {asked.profile} in it; make them first"
        )
    if asked.card:
        written = [outputs.write_card(asked.profile, folder, asked.recorded)]
    else:
        written = outputs.write_report(asked.profile, folder, asked.recorded)
    for path in written:
        print(shown(_short(path)))
    return 0


def _notebook(asked: argparse.Namespace) -> int:
    """Run one notebook with parameters, strictly: an unknown name of either is an error, unlike in
    papermill."""
    from flowclip_kit.reporting import notebooks

    there = sorted(path.stem for path in (root() / "notebooks").glob("*.ipynb"))
    name = asked.name.removesuffix(".ipynb")
    if name not in there:
        raise InputError(f"notebook {asked.name!r} is unknown; use {', '.join(there)}")
    given = dict(text.partition("=")[::2] for text in asked.parameter)
    if unclear := [text for text in asked.parameter if "=" not in text]:
        raise InputError(f"-p {unclear[0]}: expected NAME=VALUE")
    folder, notebook = (
        (asked.results or root() / "results").absolute(),
        root() / "notebooks" / f"{name}.ipynb",
    )
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
    from flowclip_kit.experiments.runs import pick_device
    from flowclip_kit.predict import Classifier, videos_in

    if asked.json and asked.csv:
        raise InputError("--json and --csv: give one of them")
    classify = Classifier(
        _labels(asked),
        checkpoint=asked.checkpoint,
        backbone=asked.backbone,
        pretrained=asked.pretrained or ("openai" if asked.backbone not in (None, TINY) else None),
        decoder=asked.decoder,
        device=pick_device(asked.device),
    )
    if len(asked.video) == 1 and not asked.video[0].is_dir():
        return _say_prediction(classify(asked.video[0]), asked, 1 if asked.json else None)
    unreadable = 0
    if asked.csv:
        print("video,label,score,cosine")
    for video in videos_in(asked.video):
        try:
            _say_prediction(classify(video), asked, None)
        except VideoError as error:  # the others are worth their answers
            _refuse(error)
            unreadable += 1
    return 2 if unreadable else 0


def _say_prediction(found: Prediction, asked: argparse.Namespace, indent: int | None) -> int:
    """Print one prediction: as text, as JSON (indented, or one line), or as lines of CSV."""
    if asked.csv:
        lines = csv.writer(sys.stdout, lineterminator="\n")
        cosines = [f"{cosine:.6f}" for cosine in found.cosines or ()] or [""] * len(found.top)
        for (label, score), cosine in zip(found.top, cosines, strict=True):
            lines.writerow([shown(found.video), shown(label), f"{score:.6f}", cosine])
        return 0
    if asked.json:
        said = to_json("the answer", found.as_dict(), ensure_ascii=False, indent=indent)
        # What does not print is escaped here too, as JSON does it.
        print(
            "".join(
                letter if letter.isprintable() or letter == "\n" else json.dumps(letter)[1:-1]
                for letter in said
            )
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
            raise InputError(
                f"--labels-file {asked.labels_file}: no such file; expected one class name a line"
            )
        labels += [line for _, line in lines_of(asked.labels_file)]
    return labels


def _list(asked: argparse.Namespace) -> int:
    from flowclip_kit.reporting import outputs

    print(outputs.overview(asked.profile))
    return 0


def _verify(asked: argparse.Namespace) -> int:
    from flowclip_kit import doctor
    from flowclip_kit.reporting import outputs

    for path in outputs.renew() if asked.renew else ():
        print(f"renewed    {shown(path)}")
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
    if asked.rerun:
        wrong += _rerun(asked.rerun, asked.seed)
    return 1 if wrong else 0


def _rerun(count: int, seed: int) -> list[str]:
    """Make recorded runs again and say how far they moved; returns those that moved too far."""
    from flowclip_kit.experiments.rerun import rerun

    found, unknown = rerun(count, seed)
    for one in found:
        print(f"{'as recorded' if one.holds else 'DIFFERENT  '}  {shown(one)}")
    moves = sorted(abs(one.moved.top1) for one in found)
    equal = sum(one.moved.equal for one in found) / len(found)
    print(
        f"{len(found)} recorded runs made again: {equal:.1f} % of hits equal, top-1 moved by {moves[-1]:.2f}"
        f" points at most, by {moves[len(moves) // 2]:.2f} in the middle"
    )
    if unknown:
        print(f"{len(unknown)} recorded runs have keys that today's settings, data or weights do not give")
    return [one.key for one in found if not one.holds]


def _book(asked: argparse.Namespace) -> int:
    from flowclip_kit import book

    folder = (asked.results or root() / "results").absolute()
    _need_writable(folder, "--results")
    try:
        print(shown(_short(book.build(folder / "book"))))
    except RuntimeError as error:
        print(f"reproduce.sh: {shown(error)}", file=sys.stderr)
        return 1
    return 0


def _doctor(asked: argparse.Namespace) -> int:
    from flowclip_kit import doctor

    if asked.decoders_of:
        from flowclip_kit.experiments.runs import Bar

        with closing(Bar("reading with each decoder", "videos")) as bar:
            said = doctor.decoders(asked.decoders_of, asked.sample, bar.update)
        print(*map(shown, said.split("\n")), sep="\n")
        return 0
    findings = doctor.look(_options(asked))
    lines = [line for finding in findings for line in str(finding).split("\n")]
    print(*map(shown, [*lines, "", doctor.verdict(findings, asked.data_root)]), sep="\n")
    return 1 if any(finding.fault for finding in findings) else 0


def _need_writable(folder: Path, option: str) -> None:
    """Raise InputError at once, rather than after minutes of work, where no file can be written into
    `folder`."""
    try:
        tempfile.TemporaryFile(
            dir=next(place for place in (folder, *folder.parents) if place.exists())
        ).close()
    except OSError as error:
        raise InputError(
            f"{option} {folder}: cannot be written ({error.strerror}); name another folder"
        ) from error


def _short(path: Path) -> str:
    """Relative to the caller's folder where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)


COMMANDS = {
    "extract": _extract,
    "predict": _predict,
    "notebook": _notebook,
    "data": _data,
    "doctor": _doctor,
    "list": _list,
    "report": _report,
    "verify": _verify,
    "book": _book,
}
