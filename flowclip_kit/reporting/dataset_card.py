"""A card for tables of results, in the form of the Hugging Face hub's data set cards: README.md of a folder
that is uploaded there."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from huggingface_hub import DatasetCardData

from flowclip_kit import experiments
from flowclip_kit.experiments.catalogue import ALL_TARGETS, TARGETS
from flowclip_kit.profiles import DEMO_ROLES, PROFILES
from flowclip_kit.reporting import costs
from flowclip_kit.reporting.tables import DEMO_NOTE

# What the columns hold. A table whose target varied further settings has a column for each of them.
COLUMNS = {
    "target": "table or panel of the paper",
    "table": "table of the paper",
    "profile": "protocol of the run",
    "dataset": "data set that is tested on",
    "role": "the paper's data set that it stands for",
    "trained_on": "data set of the training; empty: frozen CLIP",
    "variant": "row of the table: the parts that are on",
    "mmb, map, mcb": "1 where the part is on: motion block, motion-aware prompts, communication block",
    "T, H, s, L": "frames, prompt vectors, largest step of frame differences, differences",
    "prompt": "hand-crafted prompt that the prompts begin with",
    "lr, rate": "learning rate",
    "k": "training videos a class; 0: all of them, or nothing is trained",
    "seed": "of the draws of videos, frames and initial weights",
    "split": "official number; 0: training videos set aside",
    "views": "clips x crops that the scores are averaged over",
    "metric": "top1 and top5; order, top1_shuffled and the like are controls with frames out of order",
    "value, top1": "of the metric: percent, or the unit that the metric names",
    "key": "name of the run: hash of its settings, data and weights",
    "n": "runs of a mean; of a videos table, test videos",
    "splits": "how many splits a mean is taken over",
    "mean, sd, low, high": "over runs: mean, standard deviation, 95 % Student t interval",
    "split_sd": "standard deviation between the means of splits",
    "video_low, video_high": "95 % bootstrap interval over test videos",
    "paper": "printed value",
    "correct": "hexadecimal: a bit for each test video in the order of its name, 1 where it is named right",
    "top5": "the same, 1 where the true name is among the first five",
    "counting": "counted exactly, or by the paper's own rule",
    "classes": "class names in the prompts",
    "pretraining": "seed of the tiny CLIP's pre-training; 0 is the one that is shipped",
    "p": "of a difference that is zero, two-sided",
    "reference": "the row that a difference is taken from; empty for a score",
    "nudge": "seed of the change of the initial weights",
    "moved": "top-1 with that change less top-1 without it, points",
    "part, what": "of the study of linear prompts: course of training, scores, cost; and what was timed",
    "step": "training step",
    "error, effect": "of first-order texts, as a share of motion's effect; motion's effect on the texts",
    "trained with, tested with": "true or linearised prompts",
    "videos, passes, seconds": "that a timing took: videos, passes of the text tower, seconds",
    "equal": "test videos that are right, or wrong, both times, percent",
}
KINDS = {
    ".summary.csv": "means, with their spread over runs and over test videos, beside the printed value",
    ".videos.csv": "which test videos each run names right",
    "rates.csv": "the sweep that chose the learning rates, on training videos set aside",
    "linear_prompts.csv": "how far motion's way to the texts is from linear",
    "thumbnails.csv": "a linear probe on order-free thumbnails, without CLIP",
    "pretraining.csv": "Table 5 on tiny CLIPs of other pre-trainings",
    "rounding.csv": "runs whose initial weights are changed by their last bit",
    "table3.csv": "parameters and operations, counted from the modules",
    ".csv": "one row for each run and metric",
}
MORE = {
    "rates": "Learning rates",
    "rounding": "Rounding",
    "thumbnails": "Thumbnails",
    "pretraining": "Pre-trainings",
    "linear_prompts": "Linear prompts",
}  # beside the targets' tables
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))


def text(profile: str, source: str) -> str:
    """The card of all tables of a source that are there: a head in YAML, then Markdown.

    The head names each table as a configuration of its own, so that `load_dataset(folder, name)` finds it.
    """
    folder = experiments.results_folder(profile, source)
    files = [path for name in ALL_TARGETS for path in sorted(folder.glob(f"{name}.*csv"))]
    files += [folder / f"{name}.csv" for name in MORE if (folder / f"{name}.csv").exists()]
    own = experiments.own_runs(profile, source)
    files += [path for run in own for path in sorted(run.folder.glob(f"{run.target}.*csv"))]
    names = {path: path.relative_to(folder).as_posix() for path in files}
    tables = {path: pd.read_csv(path) for path in files}
    rows = sum(map(len, tables.values()))
    head = DatasetCardData(
        language="en",
        license="mit",
        pretty_name=f"flowclip results, profile {profile}",
        tags=["action-recognition", "clip", "reproducibility"],
        task_categories=["video-classification"],
        size_categories=[next((name for most, name in SIZES if rows < most), "n>1M")],
        configs=[
            {"config_name": config_name(name), "data_files": name, "default": True} if name == "table5.csv"
            else {"config_name": config_name(name), "data_files": name}
            for name in names.values()
        ],
    )  # fmt: skip
    found = [name for table in tables.values() for name in table.columns]
    known = {name: about for names, about in COLUMNS.items() for name in names.split(", ")}
    columns: dict[str, list[str]] = {
        known.get(name, f"setting `{name}` that this grid varies"): [] for name in found
    }
    for name in dict.fromkeys(found):
        columns[known.get(name, f"setting `{name}` that this grid varies")].append(name)
    lines = [
        f"---\n{head.to_yaml().rstrip()}\n---\n",
        f"# Results of flowclip, profile {profile}\n",
        'Runs of a kit that reproduces "Seeing in Flowing: Adapting CLIP for Action Recognition with Motion'
        ' Prompts Learning" ([ACM MM 2023](https://doi.org/10.1145/3581783.3612490)), made without its'
        f" authors. Scores are in percent. The profile: {PROFILES[profile].about}"
        + (f"; {DEMO_NOTE}" if PROFILES[profile].roles == DEMO_ROLES else "")
        + ".\n",
        "## Tables\n",
        "| configuration | rows | what |\n| --- | ---: | --- |",
        *(
            f"| `{config_name(names[path])}` | {len(table):,} | {_title(path)}: {_kind(names[path])} |"
            for path, table in tables.items()
        ),
        "\n## Columns\n\n| column | what |\n| --- | --- |",
        *(f"| {', '.join(f'`{name}`' for name in own)} | {about} |" for about, own in columns.items()),
        "\n## Where the numbers come from\n",
        *_provenance(profile, source, files),
        "\n## Licence\n",
        "The tables are under the MIT licence, as the kit is. They hold scores, no video and no picture of"
        " the data sets; printed values are quoted from the paper.",
    ]
    return "\n".join(lines) + "\n"


def config_name(file: str) -> str:
    """The configuration of a table, from its file below the folder."""
    return file.removesuffix(".csv").replace("/", "-").replace(".", "-")


def _kind(file: str) -> str:
    return next(about for end, about in KINDS.items() if file.endswith(end))


def _title(path: Path) -> str:
    name = path.name.partition(".")[0]
    return TARGETS[name].title if name in TARGETS else {"table3": costs.TITLE, **MORE}[name]


def _provenance(profile: str, source: str, files: list[Path]) -> list[str]:
    """A line for each table that was trained: runs, data, backbone, software."""
    lines = []
    there = [path for path in files if path.with_suffix(".provenance.json").exists()]
    for path in there:
        name = (
            path.parent.name.removeprefix(f"{path.stem}-")
            if path.parent.name.startswith(f"{path.stem}-")
            else ""
        )
        about = experiments.load(path.stem, profile, source, name)[2]
        data = [
            f"{name} ({one['classes']} classes, {one['train']} training and {one['test']} test videos,"
            f" fingerprint `{one['fingerprint']}`)"
            for name, one in about["datasets"].items()
        ]
        tower = about["backbone"]
        versions = {
            f"{name} {said}" for one in about["software"] for name, said in one if name in ("torch", "commit")
        }
        lines.append(
            f"- `{config_name(path.relative_to(experiments.results_folder(profile, source)).as_posix())}`:"
            f" {about['runs']} runs, {about['trainings']} trainings, on {', '.join(about['devices'])}; data:"
            f" {', '.join(data)}; backbone {tower['name']}, weights `{tower['weights'][:16]}`;"
            f" {', '.join(sorted(versions))}"
        )
    return lines
