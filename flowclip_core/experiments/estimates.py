"""What storing the features of a data set takes, in gigabytes and hours, before it is begun."""

from __future__ import annotations

import functools
import json
import platform
import time
from dataclasses import dataclass

from flowclip_core.config import BackboneConfig, Profile
from flowclip_core.data.extraction import Rank
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
    rate, where = speed(profile.backbone.name)
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
    lines.append(f"hours at {rate:,.1f} pictures/s, measured on {where}; n machines with --shard i/n take 1/n of it")
    return lines


def speed(backbone: str) -> tuple[float, str]:
    """Pictures a second of all lanes of this machine together, and what was measured; measured once and kept."""
    device = pick_device("auto")
    precision = pick_precision(None, device)
    jobs = default_jobs() if device == "cpu" else 1
    where = f"{jobs} CPU cores ({platform.machine()})" if device == "cpu" else gpu_name()
    where += f" in {precision}"
    path, key = cache_dir() / "speed.json", f"{backbone} on {where}"
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        known = {}
    if not isinstance(known, dict):
        known = {}
    if not isinstance(known.get(key), float) or known[key] <= 0:
        known[key] = measure(BackboneConfig(backbone, None), device, precision, jobs)
        write_atomically(path, json.dumps(known, indent=1) + "\n")
    return known[key], where


def measure(backbone: BackboneConfig, device: str, precision: str, jobs: int) -> float:
    """Pictures a second with random weights, every lane at work at once."""
    found, _ = lanes(backbone, device, precision, jobs, None, Rank())
    with Pool(len(found)) as pool:
        list(pool.map(_prepare, [(load,) for load in found]))
        return float(sum(rate for _, rate in pool.map(_rate, [(load,) for load in found])))


def _prepare(load) -> bool:
    _rate(load)
    return True


def _rate(load) -> float:
    import torch

    tower = load()
    pictures = torch.zeros(SAMPLE, 3, tower.image_size, tower.image_size, dtype=torch.uint8)
    began, rounds = time.perf_counter(), 1 if tower.device.type == "cpu" else 64
    with torch.inference_mode():
        for _ in range(rounds):
            answer = tower.encode_frames(pictures)
        answer.sum().item()  # a GPU answers when it is done
    return rounds * SAMPLE / (time.perf_counter() - began)


@functools.lru_cache
def _width(backbone: str) -> int:
    """D of an open_clip model, without building it."""
    import open_clip

    return open_clip.get_model_config(backbone)["embed_dim"]
