"""What storing the features of a data set takes, in gigabytes and hours, before it is begun."""

from __future__ import annotations

import functools
import json
import platform
import time
from contextlib import suppress
from dataclasses import dataclass

import psutil

from flowclip_core.config import BackboneConfig, Profile
from flowclip_core.data.extraction import Rank
from flowclip_core.errors import notice
from flowclip_core.experiments.towers import gpu_name, lanes, pick_device, pick_precision
from flowclip_core.paths import cache_dir, write_atomically
from flowclip_core.workers import Pool, default_jobs

# HMDB-51, UCF-101: videos of the official archives; Kinetics-400: what is left of it in a copy in use (240,436 training
# videos and 19,889 for validation).
VIDEOS = {"hmdb51": 6766, "ucf101": 13320, "kinetics400": 260325}
SAMPLE = 8  # pictures that a lane encodes to be timed


@dataclass(frozen=True)
class Estimate:
    """Of one data set: how many videos and pictures, bytes of its stored features, hours of encoding."""

    dataset: str
    videos: int
    pictures: int
    bytes: int
    hours: float


def of_profile(profile: Profile, pictures_per_second: float) -> list[Estimate]:
    """Estimates for the real data sets of a profile, none for those that are drawn."""
    views, found = profile.frames_stored * len(profile.store_crops), []
    for name in profile.roles.values():
        if name in VIDEOS:
            pictures = VIDEOS[name] * views
            hours = pictures / pictures_per_second / 3600
            found.append(Estimate(name, VIDEOS[name], pictures, 2 * pictures * _width(profile.backbone.name), hours))
    return found


def text(profile: Profile) -> list[str]:
    """Lines about the stored features of a profile's real data sets; measures this machine's speed if need be."""
    if not any(name in VIDEOS for name in profile.roles.values()):
        return []
    rate, where = speed(profile.backbone)
    lines = [
        f"stored features  every video is encoded once: {profile.frames_stored} frames x {len(profile.store_crops)}"
        f" crops, {profile.backbone.name}",
        f"{'data set':12} {'videos':>9} {'pictures':>12} {'GB':>7} {'GB while made':>14} {'hours here':>11}",
    ]
    for one in of_profile(profile, rate):
        size = one.bytes / 1e9
        lines.append(
            f"{one.dataset:12} {one.videos:>9,} {one.pictures:>12,} {size:>7.1f} {2 * size:>14.1f} {one.hours:>11,.1f}"
        )
    lines.append(
        f"hours of encoding alone, at {rate:,.1f} pictures/s as measured on {where}; decoding goes on beside it where"
        " there are cores for it; n machines with --shard i/n take 1/n"
    )
    return lines


def speed(backbone: BackboneConfig) -> tuple[float, str]:
    """Pictures a second of all lanes of this machine together, and what was measured; measured once and kept.

    With random weights: they do not matter here.
    """
    device = pick_device("auto")
    precision = pick_precision(None, device)
    where = f"{_hardware(device)} in {precision}"
    path, key = cache_dir() / "speed.json", f"{backbone.name} on {where}"
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        known = {}
    if not isinstance(known, dict):
        known = {}
    if not isinstance(known.get(key), float) or known[key] <= 0:
        notice(f"measuring how fast {backbone.name} encodes here, once")
        known[key] = measure(BackboneConfig(backbone.name, None), device, precision)
        with suppress(OSError):  # then it is measured again next time
            write_atomically(path, json.dumps(known, indent=1) + "\n")
    return known[key], where


def _hardware(device: str) -> str:
    """This machine, as far as its speed depends on it; the cache may be shared with others."""
    if device == "cuda":
        import torch

        return f"{torch.cuda.device_count()} x {gpu_name()}"
    return f"{default_jobs()} cores of {platform.node()}"


def measure(backbone: BackboneConfig, device: str, precision: str) -> float:
    """Pictures a second, every lane at work at once; of many CPU cores as many as there is memory for, scaled up."""
    # A model of ViT-L/14's size takes 1.7 GB, and as much again while it is built.
    fitting = max(1, int(psutil.virtual_memory().available / 2**30 / 4))
    jobs = default_jobs()
    found, _ = lanes(backbone, device, precision, min(jobs, fitting), None, Rank())
    with Pool(len(found)) as pool:
        list(pool.map(_prepare, [(load,) for load in found]))
        rate = sum(rate for _, rate in pool.map(_rate, [(load,) for load in found]))
    return float(rate * (jobs / len(found) if device == "cpu" else 1))


def _prepare(load) -> bool:
    _rate(load)
    return True


def _rate(load) -> float:
    import torch

    tower = load()
    pictures, rounds = (SAMPLE, 1) if tower.device.type == "cpu" else (16 * SAMPLE, 8)
    views = torch.zeros(pictures, 3, tower.image_size, tower.image_size, dtype=torch.uint8)
    began = time.perf_counter()
    with torch.inference_mode():
        for _ in range(rounds):
            answer = tower.encode_frames(views)
        answer.sum().item()  # a GPU answers when it is done
    return rounds * pictures / (time.perf_counter() - began)


@functools.lru_cache
def _width(backbone: str) -> int:
    """D of an open_clip model, without building it."""
    import open_clip

    return open_clip.get_model_config(backbone)["embed_dim"]
