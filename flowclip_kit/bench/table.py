"""Table 5 of the demo, cold and warm: from the installed environment alone to the written table, and again.

    ./reproduce.sh bench table [--record]

Cold: an empty cache and empty results, so videos are drawn and encoded, 120 models trained, notebook and
figures made. Warm: the same call again. Wall time, and the most memory that any of its processes held.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from flowclip_core.errors import InputError
from flowclip_kit.bench import _common as common
from flowclip_kit.distributed.process_pool import default_jobs


def measure(options: common.Options) -> str:
    """Both calls as a text."""
    lines = [f"table5, demo, {options.seeds} runs a cell, on {default_jobs()} CPU cores"]
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-P", "-m", "flowclip_kit", "table5", "--device", "cpu"]
        command += ["--results", f"{place}/results", "--seeds", str(options.seeds)]
        for name in ("cold", "warm"):
            began = time.monotonic()
            cache = {"FLOWCLIP_CACHE": f"{place}/cache"}
            if subprocess.run(command, env=os.environ | cache, stdout=subprocess.PIPE).returncode:
                raise InputError("the table cannot be made, for the reason above")
            lines.append(f"{name:6} {time.monotonic() - began:7.1f} s")
        about = json.loads(Path(place, "results/demo/table5.provenance.json").read_text())
    return "\n".join([*lines, f"peak memory of a process that trains: {about['peak_memory_gib']:.2f} GiB"])


def main() -> int:
    """The command line; 2 where the table cannot be made."""
    return common.run("table", measure, {"--seeds": {"type": int, "default": 3}})


if __name__ == "__main__":
    sys.exit(main())
