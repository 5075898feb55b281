"""Does a conclusion rest on one pre-training? Table 5 on tiny CLIPs that were pre-trained with other seeds.

    ./reproduce.sh bench pretraining [--record]

The recipe of the shipped weights (`demo.makers.pretrain`) with other seeds of stills, captions and initial
weights, some ten minutes each, kept in the cache; then Table 5 at k = 4 and 16 on each, with equal lists,
seeds and settings. --record writes results/recorded/demo/pretraining.csv and a part of
notebooks/demo_world.md.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd

from flowclip_core.errors import InputError
from flowclip_kit import readme_parts
from flowclip_kit.bench import _common as common
from flowclip_kit.demo import world
from flowclip_kit.experiments import Options, ensure, hashed
from flowclip_kit.experiments.results_table import by_key
from flowclip_kit.paths import cache_dir, root
from flowclip_kit.reporting.target_results import View

SEEDS, SHOTS = (0, 1, 2), (4, 16)  # 0: the shipped weights
PAIRS = (("mmb", "baseline"), ("full", "baseline"))


def weights(seed: int) -> str | None:
    """A folder with the tiny CLIP of a pre-training, made if it is not there; None for the shipped one."""
    if not seed:
        return None
    folder = cache_dir() / "demo" / f"tiny_clip-{seed}"
    if not (folder / world.WEIGHTS.name).exists():
        maker = [sys.executable, "-P", "-m", "flowclip_kit.demo.makers.pretrain"]
        made = subprocess.run([*maker, "--seed", str(seed), "--out", str(folder)], stdout=sys.stderr)
        if made.returncode:
            raise InputError(f"pre-training with seed {seed} failed, for the reason above")
    return str(folder)


def study(view: View, seed: int) -> pd.DataFrame:
    """A row for each score, and for each difference of `PAIRS`, of one pre-training; percent and points."""
    scores = view.summary[view.summary["metric"] == "top1"].assign(reference="")
    assert view.paired is not None
    pairs = [pair in PAIRS for pair in zip(view.paired["variant"], view.paired["reference"], strict=True)]
    rows = pd.concat([scores, view.paired[pairs]], ignore_index=True)
    columns = ["dataset", "variant", "reference", "k", "n", "mean", "low", "high", "p"]
    return rows.reindex(columns=columns).assign(pretraining=seed)


def measure(seeds: int, profile: str = "demo", pretrainings: tuple[int, ...] = SEEDS) -> pd.DataFrame:
    """`study` of every pre-training, below each other."""
    found = []
    for seed in pretrainings:
        options = Options(pretrained=weights(seed))
        result = ensure("table5", profile, options, {"k": list(SHOTS), "seeds": seeds})
        found.append(study(View("table5", result.tidy, by_key(result.hits), result.provenance), seed))
    return pd.concat(found, ignore_index=True)


def main() -> int:
    """The command line."""

    def run(options: common.Options) -> str:
        found = measure(options.seeds)
        if options.record:
            path = hashed.record("pretraining", "demo", found)
            said = readme_parts.pretraining(pd.read_csv(path, keep_default_na=False, na_values=[""]))
            common.between(root() / Path("notebooks/demo_world.md"), readme_parts.PRETRAINING, said)
        scores = found[found["reference"].isin(["", None])]
        table = scores.pivot_table("mean", ["dataset", "k", "variant"], "pretraining", sort=False)
        return table.round(1).to_string()

    return common.run(
        "pretraining", run, {"--seeds": {"type": int, "default": 5, "help": "runs a cell (default: 5)"}}
    )


if __name__ == "__main__":
    sys.exit(main())
