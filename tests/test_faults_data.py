"""Faults of class names, data sets and weights: one line that names what is wrong, before any video is
decoded."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from pathlib import Path

import open_clip
import pandas as pd
import pytest
import torch
from clips import cut_short, make, make_audio
from fault_table import Fault, answer, check
from safetensors.torch import save_file
from test_datasets import hmdb, kinetics, one_line, put, ucf
from test_features import Inline, Projection

from flowclip_core.data.labels import check_texts, class_text
from flowclip_core.errors import InputError
from flowclip_kit.datasets import acquire, archives
from flowclip_kit.datasets.class_names import CLASSES
from flowclip_kit.datasets.extraction import ensure_features
from flowclip_kit.datasets.feature_store import StoreConfig
from flowclip_kit.datasets.few_shot_lists import read_list
from flowclip_kit.datasets.formats import Video, load
from flowclip_kit.demo import world
from flowclip_kit.experiments.runs import Options, Workshop, resolve
from flowclip_kit.explore import checkpoints
from flowclip_kit.label_lists import joined, split_names
from flowclip_kit.predict import classify

COMMA = "Lifting up one end of something, then letting it drop down"
HIDDEN = "wa\u200bve"


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """No test finds features of another, waits for a server, or asks the hub."""
    monkeypatch.setenv("FLOWCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(archives, "PAUSE", 0.0)
    monkeypatch.delenv("FLOWCLIP_MIRROR", raising=False)


def classes(root: Path, *names: str, count: int = 2) -> Path:
    """A folder data set of empty files: whatever decodes one of them fails with another line than those
    below."""
    for name in names:
        for number in range(count):
            put(root / "data" / name / f"{number}.mp4")
    return root / "data"


def lists(root: Path, train: str, test: str = "run/1.mp4,run\nwave/1.mp4,wave\n") -> Path:
    data = classes(root, "run", "wave")
    put(data / "train.csv", "video,label\n" + train)
    put(data / "test.csv", "video,label\n" + test)
    return data


def table5(data: Path, *more: object) -> tuple[object, ...]:
    where = ("--data-root", data, "--results", data.parent / "results")
    return ("table5", "--profile", "smoke", "--dataset", "folder", *where, *more)


def extract(data: Path) -> tuple[object, ...]:
    return ("extract", "folder", "--profile", "smoke", "--data-root", data)


def with_weights(root: Path, path: Path) -> tuple[object, ...]:
    return table5(classes(root, "run", "wave"), "--backbone", "ViT-B-16", "--pretrained", path)


def fifo(root: Path) -> Path:
    data = classes(root, "run", "wave")
    os.mkfifo(data / "run/p.mp4")
    (data / "wave/x.mp4").mkdir()
    (data / "wave/gone.mp4").symlink_to("nowhere")
    return data


def not_utf8(root: Path, name: bytes) -> Path:
    data = classes(root, "run", "wave")
    path = os.fsencode(data) + b"/" + name
    try:
        for number in b"01":
            put(Path(os.fsdecode(path + bytes([number]) + b".mp4")))
    except OSError:
        pytest.skip("this file system has no names that are not UTF-8")
    return data


def hugging_face(root: Path) -> Path:
    put(root / "hf/config.json", "{}")
    save_file({"text_model.final_layer_norm.bias": torch.zeros(2)}, root / "hf/model.safetensors")
    return root / "hf"


def pieces(root: Path) -> Path:
    put(root / "hf/model.safetensors.index.json", "{}")
    return put(root / "hf/model-00001-of-00002.safetensors").parent


def pointer(root: Path) -> Path:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 598641023\n"
    return put(root / "open_clip_model.safetensors", text)


def large(root: Path) -> Path:
    """The names and shapes of ViT-L-14's weights; a file of a few kilobytes."""
    with torch.device("meta"):
        clip = open_clip.model.CLIP(**open_clip.get_model_config("ViT-L-14"))
    weights = {
        name: torch.zeros((1,) * value.ndim).expand(value.shape) for name, value in clip.state_dict().items()
    }
    torch.save(weights, root / "large.pt")
    return root / "large.pt"


TAKE = "take open_clip_model.safetensors of timm/vit_base_patch16_clip_224.openai"
PREDICT = ("predict", "absent.mp4")
LONG = " ".join("ab"[number % 2] for number in range(75))
FAULTS = [
    Fault(
        "B6", "a comma at the end", lambda at: (*PREDICT, "--labels", "run,wave,"), 2,
        "'run,wave,' ends with a comma",
    ),
    Fault(
        "B6", "an empty name", lambda at: (*PREDICT, "--labels", "run,,wave"), 2,
        "two commas follow each other",
    ),
    Fault(
        "B6", "an open quote", lambda at: (*PREDICT, "--labels", '"up, down,wave'), 2,
        "a quote that does not close",
    ),
    Fault(
        "B6", "a sign unseen", lambda at: (*PREDICT, "--labels", f"run,{HIDDEN}"), 2,
        r"U\+200B \(ZERO WIDTH SPACE\)",
    ),
    Fault(
        "B6", "a control character", lambda at: (*PREDICT, "--label", "a\x07b", "--label", "c"), 2,
        r"U\+0007",
    ),
    Fault(
        "B6", "a border of texts", lambda at: (*PREDICT, "--labels", "run,<End_of_text>"), 2, "holds <end_of_text>"
    ),
    Fault(
        "B6", "a border of texts, escaped", lambda at: (*PREDICT, "--labels", "run,&lt;start_of_text&gt;"), 2,
        "holds <start_of_text>",
    ),
    Fault(
        "B6", "no such file", lambda at: (*PREDICT, "--labels-file", at / "no.txt"), 2,
        r"no\.txt: no such file",
    ),
    Fault("B6", "one label", lambda at: (*PREDICT, "--label", "run"), 2, "at least two different names"),
    Fault(
        "B6", "twins", lambda at: (*PREDICT, "--labels", "sit_down,sit down,run"), 2,
        "'sit_down' and 'sit down' read",
    ),
    Fault(
        "B7", "case", lambda at: table5(classes(at, "Run", "run")), 2,
        "'Run' and 'run' read the same .*case alone",
    ),
    Fault(
        "B7", "Unicode form", lambda at: extract(classes(at, "café", unicodedata.normalize("NFD", "café"))), 2,
        r"'cafe\\u0301' and 'caf\\xe9' read the same .*Unicode form alone",
    ),
    Fault(
        "B7", "entities", lambda at: extract(classes(at, "a & b", "a &amp; b")), 2,
        "'a & b' and 'a &amp; b' read",
    ),
    Fault(
        "B7", "ligature", lambda at: table5(classes(at, "fish", "ﬁsh")), 2,
        "'fish' and 'ﬁsh' read the same",
    ),
    Fault(
        "B7", "over the context", lambda at: table5(classes(at, "run", LONG)), 2,
        f"'{LONG}': 83 tokens .* takes 77",
    ),
    Fault(
        "B7", "over it to extract", lambda at: extract(classes(at, "run", LONG)), 2,
        f"'{LONG}': 81 tokens",
    ),
    Fault(
        "C8", "what is no file", lambda at: extract(fifo(at)), 2,
        r"3 of 7 videos cannot be read: run/p.mp4 \(no regular.*gone.mp4 \(a link to nothing.*x.mp4 \(a folder\)",
    ),
    Fault(
        "C8", "a name in no UTF-8", lambda at: extract(not_utf8(at, b"run/caf\xe9")), 2,
        r"run/caf\\xe90.mp4 \(its name",
    ),
    Fault(
        "C8", "a class in no UTF-8", lambda at: extract(not_utf8(at, b"caf\xe9/")), 2,
        r"class 'caf\\xe9': its name is",
    ),
    Fault(
        "C8", "a NUL", lambda at: extract(lists(at, "run/0.mp4,run\nwave/0.mp4,wa\0ve\n")), 2,
        "train.csv, line 3: .*NUL",
    ),
    Fault(
        "C8", "an open quote", lambda at: extract(lists(at, 'run/0.mp4,"run\nwave/0.mp4,wave')), 2,
        "train.csv, line 2: ",
    ),
    Fault(
        "C8", "an open quote at the end", lambda at: extract(lists(at, 'run/0.mp4,run\nwave/0.mp4,"wave\n')), 2,
        "train.csv, line 3: .*quote",
    ),
    Fault(
        "C8", "several could be meant",
        lambda at: extract(lists(put(at / "data/run/0.mkv").parents[2], "run/0.avi,run\nwave/0.mp4,wave\n")), 2,
        "run/0.avi fits run/0.mkv, run/0.mp4; keep one",
    ),
    Fault(
        "C8", "another folder", lambda at: extract(lists(at, "run/0.mp4,run\nwave/0.mp4,wave\nx/9.mp4,run\n")
        if put(at / "data/run/later/9.mp4").exists() else ()), 2, "in the place of x/9.mp4 there is run/later/9.mp4",
    ),
    Fault(
        "C8", "one folder around all", lambda at: extract(classes(at, "set/run", "set/wave")), 2,
        "holds 1 class folders .set, which holds 2 folders",
    ),
    Fault(
        "C8", "a test class of its own",
        lambda at: extract(classes(at, "train/run", "train/wave", "test/run", "test/jump")), 2,
        "test/jump: label 'jump' is not a class of train/",
    ),
    Fault(
        "C8", "stills", lambda at: extract(put(classes(at, "run") / "wave/0.png").parents[1]), 2,
        "wave: holds 0 videos",
    ),
    Fault(
        "C9", "a root that is not to be written", lambda at: ("data", "hmdb51", "--data-root", put(at / "file")), 2,
        "--data-root .*file.*: cannot be written .*; name another folder",
    ),
    Fault(
        "C9", "no network", lambda at: ("data", "ucf101", "--data-root", at, "--mirror", "http://localhost:9/x"), 2,
        "cannot be fetched .*put it at .*run the same command again",
    ),
    Fault(
        "C10", "Hugging Face's folder", lambda at: with_weights(at, hugging_face(at)), 2,
        f"transformers .*; {TAKE}",
    ),
    Fault(
        "C10", "Hugging Face's file", lambda at: with_weights(at, hugging_face(at) / "model.safetensors"), 2,
        f"transformers .*; {TAKE}",
    ),
    Fault("C10", "pieces", lambda at: with_weights(at, pieces(at)), 2, f"in several pieces.*; {TAKE}"),
    Fault(
        "C10", "one piece", lambda at: with_weights(at, next(pieces(at).glob("*.safetensors"))), 2,
        f"one of several pieces.*; {TAKE}",
    ),
    Fault(
        "C10", "Git LFS", lambda at: with_weights(at, pointer(at)), 2,
        f"a pointer of Git LFS.*598,641,023.*{TAKE}",
    ),
    Fault(
        "C10", "another size", lambda at: with_weights(at, large(at)), 2,
        f"holds the weights of ViT-L-14 .width 1024.*--backbone ViT-L-14, or {TAKE}",
    ),
    Fault(
        "C10", "a folder of open_clip's", lambda at: with_weights(at, pointer(at / "own").parent), 2,
        "give the file in it",
    ),
    Fault(
        "C10", "data before weights",
        lambda at: ("table5", "--profile", "paper", "--data-root", at, "--results", at), 2,
        "testTrainMulti_7030_splits: no such folder.* data hmdb51",
    ),
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_faults(fault, tmp_path, capsys):
    check(fault, tmp_path, capsys)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))  # nothing was encoded


# --- B6 names
# -------------------------------------------------------------------------------------------------


def test_B6_names_with_commas_have_three_ways_in(tmp_path, capsys):
    clip = tmp_path / "wave.avi"
    clip.write_bytes(world.encode(world.render("figures-h", "wave", 0)))
    listed = put(tmp_path / "labels.txt", f"\ufeff{COMMA}\n\nsit_down\r\nBenchPress")
    for words in (
        ("--label", COMMA, "--label", "sit_down", "--label", "BenchPress"),
        ("--labels-file", listed),
        ("--labels", f'"{COMMA}", sit_down ,BenchPress'),
        ("--labels", "sit_down,BenchPress", "--label", COMMA),
    ):
        code, out, err = answer(capsys, "predict", clip, "--json", *words)
        assert code == 0, err
        assert {row["label"] for row in json.loads(out)["top"]} == {COMMA, "sit down", "Bench Press"}
    assert split_names(joined([COMMA, 'say "hi", he said', '"', "run"])) == [
        COMMA,
        'say "hi", he said',
        '"',
        "run",
    ]
    assert checkpoints.class_names(f'"{COMMA}",using iPad, sit_down') == [COMMA, "using iPad", "sit down"]


def test_B6_a_text_in_the_place_of_a_list_is_refused():
    for wrong in ("run,wave", [b"run", b"wave"]):
        one_line(lambda wrong=wrong: classify("absent.mp4", wrong), "a list of names is needed, got")


def test_B6_one_rule_for_class_names():
    for name in ("using iPad", "playing eSports", "pH test", "a_b c"):
        assert class_text(name) == class_text(name, "raw") == name
    assert [class_text(name) for name in ("sit_down", "BenchPress", "eSports")] == [
        "sit down",
        "Bench Press",
        "e Sports",
    ]
    for role in ("HMDB-51", "UCF-101", "Kinetics-400"):
        assert [class_text(name) for name in CLASSES[role]] == list(CLASSES[role])
        check_texts(CLASSES[role], CLASSES[role], role)


def test_B6_numbers_are_a_warning(tmp_path, capsys):
    said = []
    load("folder", classes(tmp_path, "0", "1", "run"), say=said.append)
    assert (
        len(said) == 1 and "2 of 3 class names are numbers ('0', '1'): CLIP reads them literally" in said[0]
    )
    clip = tmp_path / "wave.avi"
    clip.write_bytes(world.encode(world.render("figures-h", "wave", 0)))
    assert "CLIP reads them literally" in " ".join(classify(clip, ["0", "1"]).notes)


def test_B6_a_cosine_beside_the_share(tmp_path):
    """Of labels that may both be true: a third one changes the shares and no cosine."""
    clip = tmp_path / "wave.avi"
    clip.write_bytes(world.encode(world.render("figures-h", "wave", 0)))
    two, three = classify(clip, ["wave", "clap"]), classify(clip, ["wave", "clap", "sit down"])
    few, more = ({row["label"]: row for row in found.as_dict()["top"]} for found in (two, three))
    for label in ("wave", "clap"):
        assert few[label]["cosine"] == pytest.approx(more[label]["cosine"], abs=1e-5)
        assert few[label]["score"] > more[label]["score"]
    assert all(-1 <= row["cosine"] <= 1 for row in more.values())


# --- B7 cheap checks
# ------------------------------------------------------------------------------------------


def test_B7_opening_a_data_set_needs_no_tokenizer(tmp_path, monkeypatch):
    from flowclip_kit import weights

    monkeypatch.setattr(weights, "tokenizer_of", lambda *_: pytest.fail("the tokenizer was loaded"))
    workshop = Workshop(resolve("smoke", "table5", Options(dataset="figures-h")), Options(jobs=1))
    from flowclip_kit.experiments.devices import check_prompts

    data = load("folder", classes(tmp_path, "ride a bike", "ApplyEyeMakeup"))
    check_prompts(workshop.profile.backbone, data, "a common human action of")


# --- C8 data sets
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [hmdb, ucf])
def test_C8_a_re_encoded_copy_is_the_same_data(build, tmp_path):
    name = {hmdb: "hmdb51", ucf: "ucf101"}[build]
    whole, said = load(name, build(tmp_path)), []
    files = [path for path in whole.folder.rglob("*.avi")]
    for path in files:
        path.rename(path.with_suffix(".mp4"))
    copy = load(name, tmp_path, say=said.append)
    assert [len(part) for part in copy.splits[1]] == [len(part) for part in whole.splits[1]]
    assert all((copy.folder / video.name).is_file() for part in copy.splits[1] for video in part)
    assert len(said) == 1 and "differs in extension" in said[0] and f"{len(files)} of" in said[0]
    report = acquire.inspect(name, tmp_path)
    assert report.missing == () == report.unlisted


def test_C8_a_folder_in_other_case(tmp_path):
    whole, said = load("ucf101", ucf(tmp_path)), []
    (whole.folder / "HandstandPushups").rename(whole.folder / "HandStandPushups")
    copy = load("ucf101", tmp_path, say=said.append)
    assert copy.classes == whole.classes and copy.texts == whole.texts
    assert Video("HandStandPushups/v_HandStandPushups_g02_c01.avi", 2) in copy.splits[1].train
    assert len(said) == 1 and "4 of 12 listed videos" in said[0] and "differs in case" in said[0]


def test_C8_lists_as_other_systems_write_them(tmp_path):
    whole = load("ucf101", ucf(tmp_path / "u"))
    for file in (tmp_path / "u/ucfTrainTestlist").glob("*list01.txt"):
        put(file, file.read_text().replace(" ", "\t").replace("YoYo/", "yoyo\\"))
    assert load("ucf101", tmp_path / "u", say=lambda line: None).splits == whole.splits
    whole = load("hmdb51", hmdb(tmp_path / "h"))
    for file in (tmp_path / "h/testTrainMulti_7030_splits").glob("*.txt"):
        put(file, file.read_text().replace(" 1", "\t1"))
    assert load("hmdb51", tmp_path / "h", say=pytest.fail).splits == whole.splits


@pytest.mark.parametrize(
    ("listed", "way"),
    [
        ("café\\0.MP4", "slashes"),
        ("CAFÉ/0.mp4", "case"),
        ("café/0.avi", "extension"),
        ("café/0", "extension"),
        (unicodedata.normalize("NFD", "café/0.mp4"), "Unicode form"),
        ("CAFÉ\\0.avi", "slashes and case and extension"),
    ],
)
def test_C8_a_listed_name_that_can_mean_one_file_means_it(listed, way, tmp_path):
    data, said = classes(tmp_path, "café", "run"), []
    put(data / "train.csv", f"video,label\n{listed},café\nrun/0.mp4,run\n")
    put(data / "test.csv", f"video,label\nrun/1.mp4,run\ncafé/1.mp4,{unicodedata.normalize('NFD', 'Café')}\n")
    found = load("folder", data, say=said.append)
    assert found.splits[1].train == (Video("café/0.mp4", 0), Video("run/0.mp4", 1))
    assert len(said) == 1 and f"1 of 4 listed videos are there under a name that differs in {way}" in said[0]


def test_C8_a_file_that_the_list_names_is_nobody_elses(tmp_path):
    data = lists(tmp_path, "run/0.avi,run\nrun/0.mp4,run\nwave/0.mp4,wave\n")
    one_line(lambda: load("folder", data), "1 of 5 listed videos (run/0.avi) are not there")


@pytest.mark.parametrize("inside", ["", "any class/", "any/class/"])
def test_C8_kinetics_without_times_in_its_names(tmp_path, inside):
    whole = load("kinetics400", kinetics(tmp_path))
    for part in ("train", "val"):
        for path in list((tmp_path / part).rglob("*.mp4")):
            target = tmp_path / part / inside / f"{path.stem[:-14]}.mp4"
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
        for left in [
            path for path in (tmp_path / part).iterdir() if path.is_dir() and path.name not in inside
        ]:
            shutil.rmtree(left)
    copy = load("kinetics400", tmp_path)
    assert [video.label for video in copy.splits[1].train] == [video.label for video in whole.splits[1].train]
    assert copy.splits[1].train[0].name == f"train/{inside}-train_00xyz.mp4"
    line = whole.splits[1].train[0].name.removeprefix("train/")
    assert read_list(put(tmp_path / "l.txt", line), copy) == copy.splits[1].train[:1]  # which has them
    copied = put(tmp_path / "train/again/-train_00xyz.mp4")
    one_line(lambda: load("kinetics400", tmp_path), "1 listed videos are there more than once", copied.name)


def test_C8_kinetics_under_other_names_is_named(tmp_path):
    kinetics(tmp_path)
    shutil.rmtree(tmp_path / "train")
    put(tmp_path / "train/000001.mp4")
    one_line(
        lambda: load("kinetics400", tmp_path, missing="skip"),
        "no training video",
        "in no list (train/000001.mp4)",
    )


@pytest.mark.parametrize("parts_", [("train", "test"), ("Train", "Val"), ("train", "test", "validation")])
def test_C8_train_and_test_folders(parts_, tmp_path):
    said = []
    data = load(
        "folder",
        classes(tmp_path, *(f"{part}/{name}" for part in parts_ for name in ("run", "wave"))),
        say=said.append,
    )
    assert data.classes == ("run", "wave") and [len(part) for part in data.splits[1]] == [4, 4]
    assert data.splits[1].test[3] == Video(f"{parts_[1]}/wave/1.mp4", 1)
    assert len(said) == (len(parts_) == 3) and all("validation" in line for line in said)
    shutil.rmtree(tmp_path / "data" / parts_[1] / "wave")
    load("folder", tmp_path / "data", say=said.append)
    assert "split 1: 1 classes have no test video (wave)" in said[-1]


def test_C8_classes_called_train_and_test_are_classes(tmp_path):
    assert load("folder", classes(tmp_path, "train", "test")).classes == ("test", "train")


def test_C8_what_is_left_out_is_counted_and_named(tmp_path):
    data, said = classes(tmp_path, "run", "wave"), []
    whole = load("folder", data, say=pytest.fail)
    for junk in (
        "__MACOSX/run/._0.mp4",
        "lost+found/x",
        "@eaDir/a.mp4",
        "run/._0.mp4",
        "run/Thumbs.db",
        "run/@eaDir/0.mp4",
    ):
        put(data / junk)
    for other in (
        "run/notes.txt",
        "run/still.png",
        "wave/tiles.heic",
        "loose.mp4",
        "run/mystery.bin2",
    ):
        put(data / other)
    assert load("folder", data, say=said.append) == whole
    assert len(said) == 1 and "5 files that are no videos of a class (loose.mp4, " in said[0]
    assert "6 names that systems leave behind" in said[0] and "__MACOSX" in said[0]


def test_C8_any_file_that_can_be_read_is_a_video(tmp_path):
    data = classes(tmp_path, "run", "wave")
    made = make(tmp_path / "made.avi", 3)
    for name in ("more.wmv", "more.ts", "more.3gp", "more.FLV", "season 1/more.mp4"):
        put(data / "run" / name)
    for name in ("no_ending", "odd.clip"):
        shutil.copy(made, data / "run" / name)
    put(data / "run" / "broken.clip", "no video")
    said = []
    found = load("folder", data, say=said.append)
    names = {video.name for part in found.splits[1] for video in part}
    more = ("more.wmv", "more.ts", "more.3gp", "more.FLV", "season 1/more.mp4", "no_ending", "odd.clip")
    assert {f"run/{name}" for name in more} < names and len(names) == 11
    assert len(said) == 1 and "1 files that are no videos of a class (run/broken.clip)" in said[0]


def test_C8_a_few_shot_list_as_others_write_it(tmp_path):
    dataset = load("ucf101", ucf(tmp_path))
    train = dataset.splits[1].train
    lines = [
        video.name.replace("/", "\\").upper().replace(".AVI", ".mp4") + f"\t{video.label}" for video in train
    ]
    assert read_list(put(tmp_path / "l.txt", "\n".join(lines)), dataset, pytest.fail) == train
    wrong = put(tmp_path / "l.txt", f"{train[0].name} 0\n{train[1].name} 3\n")
    one_line(
        lambda: read_list(wrong, dataset),
        "line 2",
        "label 3 is none of the 3 classes; they count from 0 to 2",
    )
    put(tmp_path / "ucfTrainTestlist/trainlist01.txt", f"{train[0].name} 102\n")
    one_line(lambda: load("ucf101", tmp_path), "trainlist01.txt, line 1", "ApplyEyeMakeup is 1 of 1 to 3")


def test_C8_all_videos_that_cannot_be_read_are_named_in_one_go(tmp_path):
    data = tmp_path / "data"
    made, bad = make(tmp_path / "made.mp4", 4, "libx264"), ("cut", "empty", "sound", "text", "page")
    for number in range(20):
        shutil.copy(made, put(data / ("run", "wave")[number % 2] / f"{number:02d}.mp4"))
    cut_short(data / "run/cut.mp4", made, 0.5)
    put(data / "run/empty.mp4")
    make_audio(data / "run/sound.mp4")
    put(data / "wave/text.mp4", "no video")
    put(data / "wave/page.avi", "<html>")
    with pytest.raises(InputError, match=f"{len(bad)} of 25 videos of folder cannot be read") as caught:
        ensure_features(load("folder", data), StoreConfig("weights", frames=4), [Projection], Inline())
    report = Path(str(caught.value).partition("(all: ")[2].partition(")")[0])
    assert {Path(name).stem for name in pd.read_csv(report)["name"]} == {*bad}
    assert "--incomplete skip" in str(caught.value)


# --- C9 counting first
# ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", ["nothing", "videos", "lists", "all but one"])
def test_C9_what_is_missing_is_said_before_what_stops_it(there, tmp_path, monkeypatch, capsys):
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))  # no unrar
    home = tmp_path / "root/hmdb51"
    if there != "nothing":
        hmdb(home)
    if there == "videos":
        shutil.rmtree(home / "testTrainMulti_7030_splits")
    if there == "lists":
        shutil.rmtree(home / "videos")
    if there == "all but one":
        (home / "videos/kick/a_kick.avi").unlink()
    code, out, err = answer(capsys, "data", "hmdb51", "--data-root", tmp_path / "root")
    assert code == 2 and "install unar" in err.splitlines()[-1]
    assert f"hmdb51  {home}" in out and "to bring in" in out
    counted = {
        "nothing": "0 of     6,766",
        "lists": "0 of        12",
        "videos": "9 of     6,766",
        "all but one": "8 of",
    }
    assert counted[there] in out
    assert ("test_train_splits.rar" in out) == (there in ("nothing", "videos"))
    assert "kick/a_kick.avi" in out or there != "all but one"


def test_C9_a_whole_data_set_that_cannot_be_written_is_counted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("flowclip_kit.cli._need_writable", lambda *_: pytest.fail("nothing is to be written"))
    monkeypatch.setitem(acquire.FACTS, "hmdb51", acquire.FACTS["hmdb51"]._replace(classes=3, splits={}))
    hmdb(tmp_path / "hmdb51")
    code, out, err = answer(capsys, "data", "hmdb51", "--data-root", tmp_path)
    assert code == 0 and "to bring in" not in out, err


def test_C9_kinetics_lists_first(tmp_path, capsys):
    put(tmp_path / "kinetics400/train/a.mp4")
    words = ("data", "kinetics400", "--data-root", tmp_path, "--mirror", "http://localhost:9/x")
    code, out, err = answer(capsys, *words)
    assert code == 2 and "1 of   260,325" in out and "to bring in   list of the val videos (val.csv)" in out
    assert "cannot be fetched" in err.splitlines()[-1]
