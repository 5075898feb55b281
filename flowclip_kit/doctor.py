"""What this machine has and lacks, with the way to get it: `./reproduce.sh doctor`."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

from flowclip_core.config import TINY
from flowclip_core.errors import InputError, notice
from flowclip_core.files import sha256
from flowclip_kit import environment
from flowclip_kit.datasets import acquire
from flowclip_kit.datasets.contents import LARGE
from flowclip_kit.datasets.feature_store import ABOUT, ARRAY, FeatureStore
from flowclip_kit.demo import world
from flowclip_kit.distributed.process_pool import default_jobs
from flowclip_kit.experiments.devices import pick_device
from flowclip_kit.experiments.experiment import Options, with_backbone
from flowclip_kit.experiments.records import read_record, software
from flowclip_kit.paths import cache_dir


@dataclass(frozen=True)
class Finding:
    """One line. `fault`: something that was asked for is missing; remedy: the command that gets it."""

    what: str
    text: str
    fault: bool = False
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.what:16} {self.text}"


def look(options: Options, profile: str = "paper") -> list[Finding]:
    """Environment, device, disk, weights, data. Only what a data folder was named for is looked for there.

    Raises InputError for an unknown profile or backbone, or a data folder that is not there.
    """
    if options.data_root is not None and not options.data_root.is_dir():
        raise InputError(f"--data-root {options.data_root}: no such folder")
    backbone = with_backbone(profile, options).backbone
    findings = [Finding(name, value or "not installed") for name, value in software().items()]
    findings.append(_requirements())
    findings.append(Finding("device", _device()))
    memory = psutil.virtual_memory()
    findings.append(
        Finding("memory", f"{memory.available / 2**30:.0f} of {memory.total / 2**30:.0f} GiB free")
    )
    cache = cache_dir()
    place = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(place).free / 2**30
    findings.append(Finding("cache", f"{cache} ({free:.0f} GiB free); another with FLOWCLIP_CACHE"))
    count, wrong = stores()
    text = "; ".join(wrong) or f"{count} stores, whole" if count else "none stored yet"
    findings.append(Finding("features", text, bool(wrong), "./reproduce.sh verify" * bool(wrong)))
    findings.append(Finding("rar files", _rar()))
    drawn = [name for name in world.NAMES if (world.default_root() / name / "complete.txt").exists()]
    findings.append(Finding("demo world", ", ".join(drawn) or "not drawn yet (table5 does it)"))
    findings.append(_weights(backbone.name, backbone.pretrained))
    return findings + [_data(name, options) for name in acquire.FACTS]


def verdict(findings: list[Finding], data_root: Path | None = None) -> str:
    """One line: whether all that was asked for is here, and the command to type next."""
    faults = [finding for finding in findings if finding.fault]
    absent = [finding for finding in findings if finding.remedy]
    for title, several in (("To be mended", faults), ("Not here yet", absent)):
        if several:
            return f"{title}: {', '.join(finding.what for finding in several)}. Next: {several[0].remedy}"
    if data_root is None:
        return "Ready for the demo, which needs no data. Next: ./reproduce.sh table5"
    return f"Ready. Next: ./reproduce.sh table5 --profile quick --data-root {data_root}"


def stores() -> tuple[int, list[str]]:
    """How many feature stores the cache holds, and what is wrong with those that are not as written: all are
    read."""
    folders, wrong = [path.parent for path in sorted((cache_dir() / "features").glob(f"*/{ABOUT}"))], []
    if (
        size := sum((folder / ARRAY).stat().st_size for folder in folders if (folder / ARRAY).exists())
    ) > LARGE:
        notice(f"reading {size / 1e9:,.0f} GB of stored features")
    for folder in folders:
        try:
            FeatureStore.open(folder, whole=True)
        except InputError as error:
            wrong.append(str(error))
    return len(folders), wrong


def records(results: Path) -> tuple[int, list[str]]:
    """How many run records lie in a results folder, and what is wrong with those that are not sound."""
    paths, wrong = sorted((results / "runs").glob("*.json")), []
    for path in paths:
        try:
            read_record(path)
        except InputError as error:
            wrong.append(str(error))
    return len(paths), wrong


def _requirements() -> Finding:
    lacking = environment.missing(environment.requirements())
    if not lacking:
        return Finding("requirements", "complete")
    remedy = "deactivate the environment, then run ./reproduce.sh, which makes .venv"
    return Finding("requirements", f"missing: {', '.join(lacking)}; {remedy}", True, remedy)


def _device() -> str:
    text = f"{pick_device('auto')}, {default_jobs()} cores"
    if pick_device("auto") == "cuda":
        import torch

        gpus = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        text += "".join(f"; {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in gpus)
    return text


def _rar() -> str:
    from flowclip_kit.datasets.archives import rar_tools

    try:
        return ", ".join(rar_tools())
    except InputError as error:
        return f"{error} (HMDB-51 and UCF-101 come as rar files)"


def _weights(name: str, pretrained: str | None) -> Finding:
    if name == TINY or pretrained is None:
        return Finding("weights", f"{name}: nothing to fetch")
    from flowclip_kit.weights import check_weights, weights_file

    check_weights(name, pretrained)
    file = weights_file(name, pretrained)
    if file is None:
        text = f"{name} {pretrained}: not here; fetched from the hub at first use, or give --pretrained FILE"
        return Finding("weights", text)
    return Finding(
        "weights", f"{name} {pretrained}: {file} ({file.stat().st_size / 1e6:.0f} MB, SHA-256 {sha256(file)})"
    )


def _data(name: str, options: Options) -> Finding:
    root = options.data_root
    fetch = f"./reproduce.sh data {name} --data-root {root or 'DIR'}"
    if root is None:
        return Finding(name, f"not looked for (--data-root DIR); {fetch} fetches or counts it")
    folder = acquire.home(name, root)
    if not folder.is_dir() or all(path.name.startswith(".") for path in folder.iterdir()):
        return Finding(name, f"not in {root}; {fetch}", remedy=fetch)
    try:
        report = acquire.inspect(name, folder)
    except InputError as error:
        return Finding(name, f"{error}; {fetch}", True, fetch)
    text = f"{report.files[0]:,} of {report.files[1]:,} videos, {report.classes} classes in {folder}"
    if report.complete:
        return Finding(name, text)
    return Finding(name, f"{text}; incomplete, {fetch} says what is missing", not options.skips(name), fetch)


def decoders(folder: Path, sample: int, progress) -> str:
    """The decoder audit of `folder` as a text (see `data.decoders`)."""
    from flowclip_kit.datasets.decoder_audit import audit, text

    if not folder.is_dir():
        raise InputError(f"--decoders {folder}: no such folder")
    return text(audit(folder, sample, progress=progress)).rstrip()
