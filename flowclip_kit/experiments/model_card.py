"""What the model card of trained parts says of the run that made them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowclip_core.errors import InputError
from flowclip_kit.profiles import DEMO_ROLES


def of_run(model: Mapping, record: Any) -> dict:
    """For `FlowCLIP.save_pretrained(model_card_kwargs=...)` and `hub.card`: how a run trained and scored.

    model: the settings of the weights. record: of the run that trained them. Raises InputError where it is no
    run record, or one of another model.
    """
    try:
        run, scores = record["config"], record["scores"]
        train, transfer, tests = run["train"], run["transfer"], run["evaluation"]
        if run["model"] != model:
            raise InputError("record: of another run; its model's settings are not those of these weights")
        videos = "all training videos" if run["k"] is None else f"{run['k']} training videos a class"
        said = [f"- data: {run['dataset']}, split {run['split']}, {videos}"]
        if "trained_on" in record:
            videos = record["trained_on"]  # their names, or how many
            said[0] += f" ({len(videos) if isinstance(videos, list) else videos} in all)"
        if train is None:
            said.append("- training: none")
        else:
            length = f"{train['epochs']} epochs" if train["steps"] is None else f"{train['steps']} steps"
            said.append(
                f"- training: SGD, {length}, batch {train['batch']}, learning rate {train['lr']:g}, seed"
                f" {run['seed']}, on {record['device']}"
            )
        tested = (
            f"{transfer['dataset']}, split {transfer['split']}"
            if transfer
            else f"{run['dataset']}, same split"
        )
        if run["held_out"]:
            tested += ", training videos set aside"
        said.append(
            f"- test: {tested}, {len(record['predictions'])} videos, {tests['clips']}x{len(tests['crops'])}"
            f" views: top-1 {scores['top1']:.2f} %, top-5 {scores['top5']:.2f} %"
        )
        versions = ", ".join(f"{name} {record['software'][name]}" for name in ("torch", "open_clip_torch"))
        said.append(f"- run {record['key']}, with {versions}")
        datasets = (run["dataset"], transfer["dataset"]) if transfer else (run["dataset"],)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"record: not a run record ({type(error).__name__}: {error})") from error
    said.append(
        "\nOne run with one seed; what such runs score on average, and how far they spread, is in its table."
    )
    return {"training": "\n".join(said), "demo": bool(set(datasets) & set(DEMO_ROLES.values()))}
