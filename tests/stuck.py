"""Readers for the decoder audit that do not come back from 'no_b...'; light, as the reading process imports
them."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

from flowclip_kit.datasets.decoder_audit import Reading


def hang(path: Path, frames: int, reading: Reading) -> Reading:
    if path.name.startswith("no_b"):
        time.sleep(600)
    return replace(reading, wrong=0)


def crash(path: Path, frames: int, reading: Reading) -> Reading:
    if path.name.startswith("no_b"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return replace(reading, wrong=0)


def leave(path: Path, frames: int, reading: Reading) -> Reading:
    if path.name.startswith("no_b"):
        os._exit(3)
    return replace(reading, wrong=0)
