"""Table 5 of the demo, cold and warm: from nothing but the installed environment to the written table, and
again.

    ./reproduce.sh bench table [--record]

Cold: an empty cache and empty results, so videos are drawn, encoded, 120 models trained, notebook and figures
made.
Warm: the same call again. Wall time, and the most memory that any of the command's processes held.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from flowclip_kit.bench import _common as common
from flowclip_kit.distributed.process_pool import default_jobs


def main() -> int:
    """The command line; 1 where the table cannot be made."""
    parser = argparse.ArgumentParser(prog="./reproduce.sh bench table", allow_abbrev=False)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--record", action="store_true", help=f"write the figures into {common.README}")
    asked = parser.parse_args()
    lines = [f"table5, demo, {asked.seeds} runs a cell, on {default_jobs()} CPU cores"]
    with tempfile.TemporaryDirectory() as place:
        results = Path(place, "results")
        command = [
            sys.executable,
            "-P",
            "-m",
            "flowclip_kit",
            "table5",
            "--results",
            str(results),
            "--device",
            "cpu",
        ]
        command += ["--seeds", str(asked.seeds)]
        for name in ("cold", "warm"):
            began = time.monotonic()
            done = subprocess.run(
                command,
                env=os.environ | {"FLOWCLIP_CACHE": str(Path(place, "cache"))},
                stdout=subprocess.PIPE,
            )
            if done.returncode:
                return 1
            lines.append(f"{name:6} {time.monotonic() - began:7.1f} s")
        about = json.loads((results / "demo" / "table5.provenance.json").read_text())
    lines.append(f"peak memory of a process that trains: {about['peak_memory_gib']:.2f} GiB")
    said = "\n".join(lines)
    print(said)
    if asked.record:
        common.record("table", "table", said)
    return 0


if __name__ == "__main__":
    sys.exit(main())
