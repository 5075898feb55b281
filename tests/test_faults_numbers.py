"""Numbers that are none, answers that mean less than they seem, and trained parts of strangers."""

from __future__ import annotations

import functools
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from clips import make, picture
from conftest import ROOT, SMALL, fixed
from fault_table import Fault, answer, check
from safetensors.torch import load_file, save_file
from test_features import Inline, Projection

from flowclip_core import FlowCLIP
from flowclip_core.config import TINY, EvalConfig, ModelConfig, TrainConfig
from flowclip_core.errors import Diverged, InputError, NotFinite, shown
from flowclip_core.files import to_json
from flowclip_core.model import hub
from flowclip_core.training import loop
from flowclip_core.training.metrics import accuracy, ranks
from flowclip_kit.datasets.extraction import ensure_features
from flowclip_kit.datasets.feature_store import FeatureStore, StoreConfig
from flowclip_kit.datasets.formats import Dataset, Split, Video
from flowclip_kit.demo import world
from flowclip_kit.demo.backbone import load_backbone
from flowclip_kit.experiments import catalogue, metrics, rates, records, runs
from flowclip_kit.experiments.catalogue import CLIP, READINGS, best_rates
from flowclip_kit.experiments.run_config import RunConfig, Transfer
from flowclip_kit.predict import classify
from flowclip_kit.profiles import PROFILES, SMOKE, BackboneConfig, Profile
from flowclip_kit.weights import cast_image_tower

NAMES = ["wave", "clap", "sit down"]
NONE = (math.nan, math.inf, -math.inf)


# --- F19 and A1: what a command says


@functools.cache
def own_parts(linear: bool = False) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors and settings of sound trained parts of the embedded model."""
    model = FlowCLIP(
        replace(CLIP, head="linear") if linear else ModelConfig(), load_backbone(), NAMES, seed=3
    )
    return {name: value.detach().clone() for name, value in model.trained().items()}, model._checkpoint()[1]


def checkpoint(
    folder: Path, change: Callable[[dict, dict], object] = lambda parts, about: None, linear=False
) -> Path:
    """Sound parts after `change(tensors, settings)`, in a file."""
    parts, about = own_parts(linear)
    parts, about = {name: value.clone() for name, value in parts.items()}, json.loads(json.dumps(about))
    change(parts, about)
    save_file(parts, folder / "parts.safetensors", {"flowclip": json.dumps(about)})
    return folder / "parts.safetensors"


def moving(folder: Path) -> Path:
    return make(folder / "moving.avi", 9)


def still(folder: Path, frames: int = 9) -> Path:
    """One picture, held; FFV1 gives it back without loss, so that all frames are equal."""
    path = folder / "still.mkv"
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(3), format="rgb24")))
        container.mux(stream.encode())
    return path


def predicts(change, *more: object, video=moving, linear: bool = False) -> Callable[[Path], Sequence[object]]:
    def given(folder: Path) -> Sequence[object]:
        path = checkpoint(folder, change, linear)
        return ("predict", video(folder), "--checkpoint", path, *more)

    return given


def setting(**values: object) -> Callable[[dict, dict], object]:
    return lambda parts, about: about["model"].update(values)


def first_part(value: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict, dict], object]:
    name = "prompts.adapter.0.weight"
    return lambda parts, about: parts.update({name: value(parts[name])})


def one_value(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def put(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[5] = value
        return tensor

    return put


def classes(*names: str) -> Callable[[dict, dict], object]:
    return lambda parts, about: about.update(class_texts=list(names))


def constant(parts: dict, about: dict) -> None:
    """A linear head that says the same of all classes."""
    for value in parts.values():
        value.zero_()


def weights_with_nan(folder: Path) -> Sequence[object]:
    """Weights of a small open_clip model, one of them no number."""
    (folder / "small-test.json").write_text(json.dumps(SMALL))
    open_clip.add_model_config(folder / "small-test.json")
    tensors = {
        name: value.contiguous() for name, value in open_clip.create_model("small-test").state_dict().items()
    }
    tensors["ln_final.weight"][3] = math.nan
    save_file(tensors, folder / "nan.safetensors")
    asked = ("--labels", "wave,clap", "--backbone", "small-test", "--pretrained", folder / "nan.safetensors")
    return ("predict", moving(folder), *asked)


FRAMES = r"frames=1000000000 must be 2 to 1024"
FAULTS = [
    Fault("A1", "a part that is NaN", predicts(first_part(one_value(math.nan))), 2,
          r"parts.safetensors: .*holds nan"),
    Fault("A1", "weights with NaN", weights_with_nan, 2,
          r"nan.safetensors: .*ln_final.weight are not all finite"),
    Fault("A1", "tau is NaN", predicts(setting(tau=math.nan)), 2,
          r"parts.safetensors: tau=nan must be .*finite"),
    Fault("A1", "tau below 0", predicts(setting(tau=-0.07)), 2,
          r"parts.safetensors: tau=-0.07 must be above 0"),
    Fault("A2", "a still clip", predicts(setting(), video=still), 0,
          r"All frames that it looks at are equal"),
    Fault(
        "A2", "a clip of one frame", predicts(setting(), video=functools.partial(still, frames=1)), 0,
        r"All frames that it looks at are equal",
    ),
    Fault("A2", "constant scores", predicts(constant, linear=True), 0,
          r"^The first 3 names have the same score"),
    Fault("F19", "10^9 frames", predicts(setting(frames=10**9)), 2, FRAMES),
    Fault("F19", "10^9 frames and steps", predicts(setting(frames=10**9, step=10**9 - 1)), 2, FRAMES),
    Fault("F19", "attention that fits no memory", predicts(setting(frames=1024, step=1000)), 2,
          r"frame differences"),
    Fault("F19", "an adapter of 10^12", predicts(setting(adapter_width=10**12)), 2,
          r"adapter_width=10{12} must be 0"),
    Fault(
        "F19", "a wider adapter than its parts", predicts(setting(adapter_width=60000)), 2,
        r"its parts do not fit",
    ),
    Fault("F19", "no heads", predicts(setting(heads=0)), 2, r"parts.safetensors: heads=0 must be 1 to 1024"),
    Fault("F19", "heads that do not divide", predicts(setting(heads=7)), 2,
          r"heads=7 must divide the width 64"),
    Fault("F19", "half a step", predicts(setting(step=1.5)), 2, r"parts.safetensors: step=1.5 must be int"),
    Fault("F19", "frames that are true", predicts(setting(frames=True)), 2, r"frames=True must be int"),
    Fault("F19", "a switch that is a word", predicts(setting(mmb="yes")), 2, r"mmb='yes' must be bool"),
    Fault("F19", "no prompt", predicts(setting(prompt=" ")), 2, r"prompt=' ' must have words"),
    Fault("F19", "a book for a prompt", predicts(setting(prompt="a " * 10**6)), 2,
          r"must have words, in at most 1000"),
    Fault("F19", "10^5 classes", predicts(classes(*map(str, range(10**5)))), 2,
          r"100,000 names, expected 1 to 4,096"),
    Fault("F19", "a book for a class", predicts(classes("wave", "a " * 10**6)), 2,
          r"expected 1 to 1000 letters"),
    Fault("F19", "an empty class", predicts(classes("wave", " ")), 2, r"class_texts has the name ' '"),
    Fault("F19", "a class twice", predicts(classes("wave", "clap", "wave")), 2,
          r"class_texts has 'wave' twice"),
    Fault("F19", "an infinite part", predicts(first_part(one_value(-math.inf))), 2,
          r"adapter.0.weight holds inf"),
    Fault("F19", "a part of 1e30", predicts(first_part(one_value(1e30))), 2,
          r"weight holds 1e\+30; below 1e\+06"),
    Fault("F19", "integers", predicts(first_part(lambda value: value.long())), 2,
          r"is torch.int64, expected torch.fl"),
    Fault("F19", "booleans", predicts(first_part(lambda value: value.bool())), 2,
          r"is torch.bool, expected torch.fl"),
    Fault("F19", "half precision", predicts(first_part(lambda value: value.half())), 2,
          r"is torch.float16, expected"),
    Fault(
        "F19", "a class with an escape sequence",
        predicts(classes("wave", "cl\x1b]0;mine\x07ap", "a\u202eb")), 0,
        r"^ +\d+\.\d%  cosine +-?\d\.\d{3}  cl\\x1b\]0;mine\\x07ap$",
    ),
    Fault(
        "F19", "a class that reads backwards", predicts(classes("wave", "clap", "a\u202eb\x9b")), 0,
        r"^ +\d+\.\d%  cosine +-?\d\.\d{3}  a\\u202eb\\x9b$",
    ),
    Fault(
        "F19", "the same in JSON", predicts(classes("wave", "clap", "a\u202eb\x9b"), "--json"), 0,
        r'"label": "a\\u202eb\\u009b"',
    ),
    Fault(
        "F19", "a backbone with an escape sequence",
        predicts(lambda parts, about: about["backbone"].update(name="\x1b[2Jtiny")), 2,
        r"backbone '\\x1b\[2Jtiny'",
    ),
    Fault(
        "F19", "a path with an escape sequence",
        lambda folder: ("predict", folder / "\x1b[2J.mp4", "--labels", "a,b"), 2, r"\\x1b\[2J.mp4: ",
    ),
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_is_one_line(fault, tmp_path, capsys):
    began = time.process_time()
    check(fault, tmp_path, capsys)
    assert time.process_time() - began < 60  # hours, where the sizes that a file claims are built
    assert list(tmp_path.glob("*.part")) == []


def test_what_is_sound_is_answered_without_a_further_word(tmp_path, capsys):
    code, out, err = answer(capsys, *predicts(setting())(tmp_path))
    assert (code, err) == (0, "") and "same score" not in out and "equal" not in out


def test_no_printed_line_holds_what_does_not_print(tmp_path, capsys):
    names = classes("wave", "cl\x1b]0;mine\x07ap", "a\u202eb\x9b\r\t")
    for more in ((), ("--json",)):
        code, out, err = answer(capsys, *predicts(names, *more)(tmp_path))
        assert code == 0 and all(letter.isprintable() or letter == "\n" for letter in out + err)
    assert next(row["label"] for row in json.loads(out)["top"] if row["label"] != "wave") in (
        "cl\x1b]0;mine\x07ap",
        "a\u202eb\x9b\r\t",
    )
    assert shown("café 動画 «a» 'b' \\") == "café 動画 «a» 'b' \\"
    assert shown("a\nb\udcff") == r"a\nb\udcff"


# --- A1: settings

WRONG = {
    ModelConfig: [
        *({"tau": value} for value in (*NONE, 0, -1, "0.07", None, True)),
        *({"position_std": value} for value in (*NONE, -1e-9, "0.01", None, True)),
        *({"frames": value} for value in (1, 0, -8, True, 8.0, "8", None, 10**9)),
        *({"step": value} for value in (0, 8, 1.5, True, -1)),
        *({"heads": value} for value in (0, -1, 1.0, True, 10**6)),
        *({"adapter_width": value} for value in (-1, 2.5, 10**12)),
        *(
            {name: value}
            for name in ("mmb", "map", "mcb", "spatial", "residual") for value in (1, 0, "no", None)
        ),
        *({name: "other"} for name in ("norm_order", "positions", "video_tokens", "head")),
        {"activation": "other"},
        {"adapter_start": "other"},
        *({"prompt": value} for value in ("", "  ", 5, None)),
    ],
    TrainConfig: [
        *({name: value} for name in ("lr", "weight_decay") for value in (*NONE, -1e-9, "0.1", None, True)),
        *({"momentum": value} for value in (*NONE, -0.1, 1, 1.0, 1.5)),
        *({"warmup": value} for value in (*NONE, -0.1, 1, 1.0, 1.5)),
        *({"jitter": value} for value in (*NONE, 0, -1, 1.5, "2", True)),
        *({"batch": value} for value in (0, -1, 2.0, True, None)),
        *({"epochs": value} for value in (0, -5, 1.5, True)),
        *({"epochs": None, "steps": value} for value in (0, -5, 1.5, True, None)),
        *({"crops": value} for value in ((), ("top",), ("left", "left"), "left", ("left", 1), None)),
    ],
    EvalConfig: [
        *({"clips": value} for value in (0, -1, 1.0, True, None)),
        *({"crops": value} for value in ((), ("top",), ("left", "left"), "left", None)),
        *({"seed": value} for value in (-1, 0.0, None)),
        *({"controls": value} for value in (1, "yes", None)),
    ],
    BackboneConfig: [{"name": ""}, {"name": None}, {"pretrained": 3}],
    Transfer: [{"dataset": None}, {"split": 0}, {"draws": 1}, {"draws": 2.5}],
    RunConfig: [
        *({"k": value} for value in (0, -1, 4.0, True)),
        *({"seed": value} for value in (-1, 1.0, None)),
        *({"split": value} for value in (0, "1")),
        {"model": {}}, {"train": EvalConfig()}, {"evaluation": None}, {"dataset": 1}, {"held_out": 1},
    ],
    StoreConfig: [
        {"frames": 0}, {"frames": 1.5}, {"crops": ()}, {"crops": ("top",)}, {"precision": "float8"},
        {"centred": 1},
    ],
    Profile: [
        {"seeds": 0}, {"closed_seeds": 1.5}, {"rates": (0.1, math.nan)}, {"rates": (-0.1,)},
        {"splits": (1, 0)}, {"frames_stored": 0}, {"store_crops": ("top",)}, {"lists": (("a", "b"),)},
        {"roles": {1: 2}},
    ],
}  # fmt: skip
SOUND = {
    Transfer: Transfer("other"), RunConfig: RunConfig("set", 4, 0),
    StoreConfig: StoreConfig("weights"), Profile: SMOKE,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "wrong"), [(kind, wrong) for kind, found in WRONG.items() for wrong in found],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value),
)  # fmt: skip
def test_A1_an_impossible_setting_is_refused_by_name_when_it_is_made(kind, wrong):
    with pytest.raises(InputError) as error:
        replace(SOUND.get(kind) or kind(), **wrong)
    said = str(error.value)
    assert "\n" not in said and any(name in said for name in wrong)


def test_A1_every_number_of_every_settings_class_is_tried_above():
    for kind, wrong in WRONG.items():
        tried = {name for one in wrong for name in one}
        numbers = {
            one.name for one in fields(kind) if "int" in one.type or "float" in one.type or one.type == "bool"
        }
        assert numbers <= tried, kind


def test_A1_a_list_of_crops_is_the_tuple_that_it_stands_for():
    read = json.loads(json.dumps(asdict(EvalConfig())))
    assert EvalConfig(**read) == EvalConfig() and hash(EvalConfig(**read)) == hash(EvalConfig())


def test_A1_the_number_of_differences_is_that_of_the_sum():
    for frames in range(2, 20):
        for step in range(1, frames):
            by_hand = sum(frames - d for d in range(1, step + 1))
            assert ModelConfig(frames=frames, step=step).differences == by_hand


def test_A1_heads_that_do_not_divide_the_width_are_refused(small):
    with pytest.raises(InputError, match=r"heads=5 must divide the width 32"):
        FlowCLIP(ModelConfig(heads=5), small, NAMES)


# --- A1: scores, features, records


@pytest.mark.parametrize("value", NONE)
def test_A1_no_metric_ranks_what_is_no_number(value):
    labels = np.array([0, 1, 2, 3, 0, 1])
    for row in range(6):
        for column in range(4):
            scores = fixed(6, 4).double().numpy()
            scores[row, column] = value
            for metric in (ranks, accuracy, metrics.predicted, metrics.ties):
                with pytest.raises(
                    NotFinite, match=f"test video {row}, class {column}: the score is {value}"
                ):
                    metric(scores, labels)
            with pytest.raises(NotFinite):
                metrics.pair_metrics(scores, labels, [(0, 1)])


@pytest.fixture
def store(tmp_path) -> FeatureStore:
    """12 videos of 3 classes, 8 stored frames; the last two do not move."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3, 1, 1, 32))[np.arange(12) % 3] + 0.3 * rng.normal(size=(12, 2, 8, 32))
    features[-2:] = features[-2:, :, :1]
    index = pd.DataFrame({"name": [f"{i}.avi" for i in range(12)], "sha256": "0" * 64})
    return FeatureStore(tmp_path, features.astype(np.float16), ("centre", "left"), index)


@pytest.mark.parametrize("value", NONE)
def test_A1_a_stored_feature_that_is_no_number_names_its_video_wherever_it_stands(value, store, small):
    frames = np.tile(np.arange(8), (12, 1))
    for video, crop, frame, place in ((0, 0, 0, 0), (7, 1, 3, 31), (11, 1, 7, 5)):
        features = store.features.copy()
        features[video, crop, frame, place] = value
        broken = replace(store, features=features)
        crops = np.full(12, crop)
        with pytest.raises(NotFinite, match=rf"video {video}.avi \(crop {store.crops[crop]}\)"):
            broken.take(np.arange(12), frames, crops)
        assert np.isfinite(broken.take(np.delete(np.arange(12), video), frames[1:], crops[1:])).all()
        model = FlowCLIP(ModelConfig(), small, NAMES)
        settings = TrainConfig(batch=5, epochs=None, steps=6, crops=store.crops)
        with pytest.raises(NotFinite, match=f"video {video}.avi"):  # noqa: PT012 - one of the seeds draws it
            for seed in range(20):
                loop.train(model, broken, np.arange(12) % 3, settings, seed)
        with pytest.raises(NotFinite, match=f"video {video}.avi"):
            loop.score(model, broken, EvalConfig(clips=1, crops=store.crops))


def test_A1_the_largest_features_are_taken(store):
    whole = replace(store, features=np.full((12, 2, 8, 32), 65504, np.float16))
    assert (whole.take(np.arange(12), np.tile(np.arange(8), (12, 1))) == 65504).all()


@pytest.mark.parametrize("name", ["spatial_stream.block.norm1.weight", "prompts.vectors"])
def test_A1_a_model_that_is_no_number_scores_nothing(name, store, small):
    model = FlowCLIP(ModelConfig(), small, NAMES)
    with torch.no_grad():
        model.trained()[name].view(-1)[3] = math.nan
    with pytest.raises(NotFinite, match=r"test video 4.avi, crop centre: its logits are not all finite"):
        loop.score(model, store, EvalConfig(clips=1, crops=("centre",)), rows=np.arange(4, 12))
    with pytest.raises(NotFinite, match=f"nothing is saved: the part {name} holds nan"):
        model.save(store.folder / "parts.safetensors")
    with pytest.raises(NotFinite):
        model.save_pretrained(store.folder / "folder")
    assert list(store.folder.iterdir()) == []


class Loud(Projection):
    """A tower that makes one large feature of one kind of picture."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def encode_frames(self, frames):
        found = super().encode_frames(frames)
        if frames.float().mean() > 100:
            found[-1, -1] = self.value
        return found


@pytest.mark.parametrize(("value", "why"), [(7e4, "too large to be stored"), (math.nan, "no number")])
def test_A1_a_feature_that_cannot_be_stored_is_not(value, why, tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path / "cache"))
    import av

    videos = [Video(f"run/{number}.avi", number % 2) for number in range(4)]
    for number, video in enumerate(videos):
        path = tmp_path / "data" / video.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w", format="avi") as container:
            stream = container.add_stream("rawvideo", rate=25)
            stream.width, stream.height, stream.pix_fmt = 24, 18, "bgr24"
            level = np.full((18, 24, 3), 200 if number == 2 else 20, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(level, format="rgb24")))
            container.mux(stream.encode())
    dataset = Dataset(
        "tiny", tmp_path / "data", ("a", "b"), ("a", "b"), {1: Split(tuple(videos[:2]), tuple(videos[2:]))}
    )
    config = StoreConfig("weights", frames=4, crops=("left", "centre"))
    with pytest.raises(NotFinite, match=rf"data/run/2.avi: .*{why}"):
        ensure_features(dataset, config, [functools.partial(Loud, value)], Inline(), shard_videos=2)
    kept = [
        path.name
        for path in (tmp_path / "cache").rglob("*")
        if path.suffix in (".safetensors", ".npy", ".json")
    ]
    assert len(kept) == 1  # the shard of the others
    sound = ensure_features(dataset, config, [functools.partial(Loud, 6e4)], Inline(), shard_videos=2)
    assert np.isfinite(sound.features).all() and len(sound.features) == 4


def test_A1_weights_too_large_for_half_precision_are_refused():
    from conftest import backbone

    tower = backbone(SMALL)
    with torch.no_grad():
        tower.clip.visual.proj[0, 0] = 7e4
    with pytest.raises(
        NotFinite, match=r"--precision float16: .*proj are not all finite numbers; take float32"
    ):
        cast_image_tower(tower, "float16")


@pytest.mark.parametrize("value", NONE)
def test_A1_json_has_no_number_that_is_none(value, tmp_path):
    record = {"key": "a", "scores": {"top1": 50.0, "order": value}, "losses": [1.0]}
    with pytest.raises(NotFinite, match=rf"a.json: scores.order = {value} is not finite"):
        records.write_record(tmp_path / "a.json", record)
    with pytest.raises(NotFinite, match=rf"what: \[2\]\.x\[0\] = {value} is not finite"):
        to_json("what", [1, None, {"x": (value,)}])
    assert list(tmp_path.iterdir()) == []
    assert (
        to_json("what", record | {"scores": {}}, sort_keys=True)
        == '{"key": "a", "losses": [1.0], "scores": {}}'
    )


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_A1_the_record_of_a_run_that_failed_is_no_result(name, tmp_path):
    """Such as were written before numbers were checked: the loss is NaN and top-1 is 100."""
    (tmp_path / "a.json").write_text(f'{{"scores": {{"top1": 100.0}}, "losses": [1.0, {name}]}}')
    with pytest.raises(
        InputError, match=rf"a.json: not a run record \({name} in it, .*; remove it and run again"
    ):
        records.read_record(tmp_path / "a.json")


def test_A1_no_module_writes_json_that_may_hold_nan():
    """What a module hands to json itself holds words, whole numbers and settings, which are finite."""
    words = {
        "flowclip_core": "files model/hub training/state",
        "flowclip_kit": "cli reporting/notebooks datasets/contents datasets/extraction datasets/formats"
        " datasets/feature_store experiments/records experiments/run_config experiments/runs"
        " distributed/locks demo/makers/pretrain bench/extraction bench/rivals book claim_files"
        " explore/lab experiments/knobs parser reporting/target_results",
    }
    for package, known in words.items():
        found = {path for path in (ROOT / package).rglob("*.py") if "json.dump" in path.read_text()}
        named = {path.relative_to(ROOT / package).with_suffix("").as_posix() for path in found}
        assert named <= {*known.split()}


# --- A1: a training that diverges


def fit(small, store, lr: float, checkpoint: Path | None = None, **how) -> FlowCLIP:
    model = FlowCLIP(ModelConfig(), small, NAMES, how.get("seed", 0))
    settings = TrainConfig(lr=lr, batch=6, epochs=None, steps=12, crops=("centre",))
    loop.train(model, store, np.arange(12) % 3, settings, 0, checkpoint=checkpoint, checkpoint_seconds=0)
    return model


@pytest.mark.parametrize("lr", [1e4, 1e30])
def test_A1_a_training_that_diverges_says_step_and_rate_and_leaves_nothing(lr, small, store, tmp_path):
    file = tmp_path / "run.partial"
    with pytest.raises(Diverged, match=r"step \d+ of 12, learning rate " + re.escape(f"{lr:g}:")) as error:
        fit(small, store, lr, file)
    assert "the loss is nan" in str(error.value) or "holds" in str(error.value)
    assert list(tmp_path.iterdir()) == []
    fit(small, store, 0.01, file)


def test_A1_a_checkpoint_never_holds_what_is_no_number(small, store, tmp_path, monkeypatch):
    """Where the loss is still finite and the step has ruined a part."""
    kept = []
    monkeypatch.setattr(loop.state, "write", lambda path, parameters, *_: kept.append(
        all(bool(value.isfinite().all()) for value in parameters.values())
    ))  # fmt: skip
    with pytest.raises(Diverged):
        fit(small, store, 1e38, tmp_path / "run.partial")
    assert all(kept)


@pytest.fixture
def task(tmp_path, monkeypatch) -> Callable[..., runs.Task]:
    """Makes runs on 12 drawn clips of two classes, whose features are stored."""
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path / "cache"))
    videos = []
    for label, action in enumerate(("wave", "push_up")):
        for number in range(6):
            name = f"{action}/{number}.avi"
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(world.encode(world.render("figures-h", action, number)))
            videos.append(Video(name, label))
    split = Split(tuple(videos[:4] + videos[6:10]), tuple(videos[4:6] + videos[10:]))
    texts = ("wave", "push up")
    dataset = Dataset("figures-h", tmp_path / "data", ("wave", "push_up"), texts, {1: split}, ((0, 1),))
    config = StoreConfig(load_backbone().weights_hash, 8, ("centre",))
    made = ensure_features(dataset, config, [load_backbone], Inline())
    runs.opened.cache_clear()

    def new(keep: bool = True, **settings) -> runs.Task:
        train = TrainConfig(lr=settings.pop("lr", 0.1), batch=4, epochs=None, steps=5, crops=("centre",))
        run = RunConfig(
            "figures-h", settings.pop("k", 2), settings.pop("seed", 0), train=train,
            backbone=BackboneConfig(TINY, None), evaluation=EvalConfig(1, ("centre",)), **settings,
        )  # fmt: skip
        key = f"{hash(run) % 16**16:016x}"
        return runs.Task(
            run,
            key,
            keep,
            tmp_path / "runs",
            dataset,
            None,
            made.folder,
            made.seal,
            key,
            config.weights,
            "cpu",
            None,
            1,
            None,
        )

    return new


def left(task: runs.Task) -> set[str]:
    return {
        path.name.removeprefix(task.key) for path in task.folder.iterdir() if path.name.startswith(task.key)
    }


def test_A1_a_run_that_diverges_leaves_no_record_and_other_seeds_are_fine(task, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    bad, good = task(lr=1e30), task(seed=1)
    with pytest.raises(Diverged) as error:
        runs._run(bad)
    for word in (bad.key, "figures-h split 1", "k=2", "seed 0", "of 5", "learning rate 1e+30"):
        assert word in str(error.value)
    assert left(bad) <= {".lock"}
    assert runs._run(good) is True and left(good) >= {".json", ".safetensors"}
    record = json.loads((good.folder / f"{good.key}.json").read_text())
    assert record["still"] == 0 and set(record["ties"]) <= {"top1", "top5", "order"}


def test_A1_a_run_whose_scores_are_no_numbers_leaves_no_weights(task, monkeypatch):
    bad, score = task(), loop.score
    monkeypatch.setattr(loop, "score", lambda *given, **how: score(*given, **how) * math.nan)
    with pytest.raises(NotFinite, match=rf"run {bad.key} \(figures-h.*test video 0, class 0"):
        runs._run(bad)
    assert left(bad) <= {".lock"}


def test_A1_a_trial_of_a_rate_that_diverges_ends_nothing_but_its_rate(task):
    bad = task(lr=1e30, held_out=True, keep=False)
    said = runs._run(bad)
    assert bad.key in said and "learning rate 1e+30" in said and left(bad) <= {".lock"}


def test_A1_a_rate_at_which_a_run_failed_is_never_chosen():
    columns = ["role", "variant", "lr", "split", "metric", "value"]
    rows = [(role, "a", lr, 0, "top1", 10 * lr) for role in "hu" for lr in (0.1, 0.2, 0.4)]
    for lost in (("h", 0.4), ("u", 0.4)):
        tried = pd.DataFrame([row for row in rows if (row[0], row[2]) != lost], columns=columns)
        assert best_rates(tried) == {"a": 0.2}
    tried = pd.DataFrame(rows, columns=columns)
    tried.loc[tried["lr"] == 0.4, "value"] = math.nan
    assert best_rates(tried) == {"a": 0.2}
    found = pd.DataFrame([(r, "a", 4, lr, s) for r, _, lr, _, _, s in rows if lr < 0.4 or r == "h"],
                         columns=["dataset", "variant", "k", "rate", "top1"])  # fmt: skip
    assert rates.mean_by_rate(found).idxmax() == 0.2
    without = [row for name in list(READINGS)[1:] for row in [("h", name, 0.1, 0, "top1", 50.0)]]
    with pytest.raises(InputError, match="readings, default: every learning rate that was tried failed"):
        catalogue.readings_at_their_best(SMOKE, pd.DataFrame(without, columns=columns))


def test_A1_a_table_with_a_rate_that_diverges_exits_with_2_and_leaves_no_record(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(PROFILES, "smoke", replace(SMOKE, few_shot=replace(SMOKE.few_shot, lr=1e30)))
    for action in ("wave", "push_up"):
        for number in range(4):
            path = tmp_path / "data" / action / f"{number}.avi"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(world.encode(world.render("figures-h", action, number)))
    words = ("table5", "--profile", "smoke", "--dataset", "folder", "--data-root", tmp_path / "data")
    code, _, err = answer(capsys, *words, "--results", tmp_path / "results", "--jobs", 1)
    line = err.splitlines()[-1]
    assert code == 2 and "Traceback" not in err
    assert all(word in line for word in ("run ", "folder split 1", "step ", "of 3", "learning rate 1e+30")), (
        line
    )
    assert {path.suffix for path in (tmp_path / "results").rglob("*") if path.is_file()} <= {".lock"}


# --- A2: ties and stillness


def test_A2_constant_scores_are_no_hit_half_an_order_and_counted():
    labels, scores = np.array([0, 1, 2, 3, 0, 2]), np.full((6, 8), 0.125)
    found = metrics.pair_metrics(scores, labels, [(0, 1), (2, 3)])
    assert found == {"top1_pairs": 0.0, "order": 50.0}
    assert accuracy(scores, labels) == 0 and not (metrics.predicted(scores, labels) == labels).any()
    assert metrics.ties(scores, labels, [(0, 1), (2, 3)]) == {"top1": 6, "top5": 6, "order": 6}
    assert metrics.ties(scores, labels) == {"top1": 6, "top5": 6}


def test_A2_order_and_ties_against_a_loop():
    rng = np.random.default_rng(1)
    pairs, twin = [(0, 1), (2, 5)], {0: 1, 1: 0, 2: 5, 5: 2}
    for _ in range(20):
        scores, labels = rng.integers(0, 4, (50, 9)).astype(float), rng.integers(0, 9, 50)
        order, tied = [], {"top1": 0, "top5": 0, "order": 0}
        for row, label in zip(scores, labels, strict=True):
            above, alike = sum(row > row[label]), sum(row == row[label]) - 1
            for top in (1, 5):
                tied[f"top{top}"] += above < top <= above + alike
            if label in twin:
                other = row[twin[label]]
                order.append(1.0 if row[label] > other else 0.5 if row[label] == other else 0.0)
                tied["order"] += row[label] == other
        assert metrics.pair_metrics(scores, labels, pairs)["order"] == pytest.approx(100 * np.mean(order))
        assert metrics.ties(scores, labels, pairs) == {name: count for name, count in tied.items() if count}
    scores = rng.random((50, 9))
    assert metrics.ties(scores, labels, pairs) == {}


def test_A2_still_videos_are_those_whose_frames_are_equal(store):
    assert list(np.flatnonzero(store.still(np.arange(12)))) == [10, 11]
    assert list(store.still(np.array([11, 3, 10]))) == [True, False, True]
    moved = store.features.copy()
    moved[11, :, 7] *= np.float16(1.01)  # in the last frame alone
    moved[10, 0, 3] = np.nextafter(moved[10, 0, 3], np.float16(9))  # the last bit is no motion
    assert list(np.flatnonzero(replace(store, features=moved).still(np.arange(12)))) == [10]


def test_A2_the_record_counts_what_does_not_move_and_ties_and_the_command_says_it(task, monkeypatch, capsys):
    monkeypatch.setattr(
        loop, "score", lambda model, store, config, *, rows, **_: np.full((len(rows), 2), 0.5)
    )
    monkeypatch.setattr(FeatureStore, "still", lambda self, rows: np.arange(len(rows)) < 3)
    one = task()
    assert runs._run(one) is True
    record = json.loads((one.folder / f"{one.key}.json").read_text())
    assert record["still"] == 3 and record["ties"] == {"top1": 4, "order": 4}
    assert record["scores"]["top1"] == 0 and record["scores"]["order"] == 50
    assert runs._remarkable([record, record]) == ({"figures-h": 3}, {"order": 8, "top1": 8})
    workshop = object.__new__(runs.Workshop)
    workshop._keys, workshop._records, workshop.folder = {one.config: one.key}, {}, one.folder
    workshop.remark([one.config])
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("reproduce.sh: figures-h: 3 test videos do not move")
    assert said[1].startswith("reproduce.sh: equal scores in 4 of order, 4 of top1")


def test_A2_a_prediction_that_rests_on_one_picture_says_so(tmp_path):
    for frames in (1, 9):
        found = classify(still(tmp_path, frames), NAMES)
        assert [note for note in found.notes if "nothing moves" in note]
    assert not [note for note in classify(moving(tmp_path), NAMES).notes if "nothing moves" in note]


def test_F19_sizes_are_compared_with_the_file_before_anything_is_built(small, tmp_path):
    """Learned positions of 2^13 differences: 1 GB where the width is 2^15; here the file lacks them."""
    model = FlowCLIP(ModelConfig(), small, NAMES)
    path = model.save(tmp_path / "parts.safetensors")
    about, parts = hub.read_settings(path), load_file(path)
    about["model"].update(frames=1024, step=8, positions="learned")
    save_file(parts, path, {"flowclip": json.dumps(about)})
    code = (
        "import resource, sys; from pathlib import Path; sys.path.insert(0, 'tests'); import conftest;"
        "from flowclip_core import FlowCLIP; tower = conftest.backbone(conftest.SMALL);"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: FlowCLIP.load(Path(sys.argv[1]), tower)\n"
        "except ValueError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    said, grown = done.stdout.splitlines()
    assert "its parts do not fit: ['motion_stream.positions', 'spatial_stream.positions']" in said
    assert int(grown) < 100_000  # KiB
