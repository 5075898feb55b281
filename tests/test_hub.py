"""Trained parts that travel: they come back bit for bit, say what they are, and nothing else is taken for
them."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from conftest import ROOT, SMALL, backbone, fixed
from huggingface_hub import ModelCard, errors, hub_mixin
from safetensors.torch import load_file, safe_open, save_file

from flowclip_core import FlowCLIP, ModelConfig
from flowclip_core.config import TrainConfig
from flowclip_core.errors import InputError
from flowclip_core.model import hub
from flowclip_core.model.backbone import load_backbone as load_other
from flowclip_kit.demo.backbone import load_backbone
from flowclip_kit.experiments import model_card
from flowclip_kit.experiments.catalogue import CLIP
from flowclip_kit.experiments.run_config import RunConfig, Transfer

NAMES = ["sit down", "stand up", "kick ball", "kick", "smile"]
FILES = {"model.safetensors", "config.json", "README.md"}
LINEAR = replace(CLIP, head="linear")


def trained(tower, config: ModelConfig | None = None, names=NAMES, shift: float = 0.1) -> FlowCLIP:
    """A model whose parts are not the ones it was drawn with."""
    model = FlowCLIP(config or ModelConfig(), tower, names, seed=9).eval()
    with torch.no_grad():
        for value in model.trained().values():
            value.add_(shift * fixed(*value.shape))
    return model


def video(width: int = 32) -> torch.Tensor:
    return 3 * fixed(3, 8, width)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run_record(model: ModelConfig, dataset: str = "figures-h", **settings) -> dict:
    """A record as it is read from its file."""
    config = RunConfig(dataset, settings.pop("k", 16), seed=7, model=model, **settings)
    record = {
        "key": "0123456789abcdef",
        "config": asdict(config),
        "scores": {"top1": 43.214, "top5": 87.65},
        "predictions": {f"{number}.avi": [0, 0, 0.5] for number in range(123)},
        "device": "cpu",
        "software": {"torch": "2.9", "open_clip_torch": "3.1"},
        "trained_on": 321,
    }
    return json.loads(json.dumps(record))


def of_run(dataset: str = "figures-h", **settings) -> dict:
    """What the card of the whole method says of such a run."""
    return model_card.of_run(asdict(ModelConfig()), run_record(ModelConfig(), dataset, **settings))


@pytest.fixture
def saved(small, tmp_path) -> Path:
    """A folder with the whole method for five classes."""
    trained(small).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def refused(*arguments, **options) -> str:
    """The one line with which `from_pretrained` refuses."""
    with pytest.raises(InputError) as error:
        FlowCLIP.from_pretrained(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- there and back
# -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [ModelConfig(step=2), ModelConfig(map=False, mcb=False, positions="learned"), LINEAR],
    ids=["full", "streams", "linear"],
)
def test_parts_come_back_bit_for_bit_and_without_the_towers(config, small, tmp_path):
    model, folder = trained(small, config), tmp_path / "new" / "saved"
    assert model.save_pretrained(folder) is None
    assert contents(folder).keys() == FILES
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert set(file.keys()) == model.trained().keys()
    assert contents(folder)["model.safetensors"] == model.save(tmp_path / "alone.safetensors").read_bytes()
    logits = model(video())["logits"]
    drawn = FlowCLIP(config, small, NAMES, seed=9).eval()(video())["logits"]
    assert not torch.allclose(logits, drawn)  # so that loading nothing would show
    for path in (folder, str(folder), tmp_path / "alone.safetensors"):
        for names in (None, NAMES, tuple(NAMES)):
            found = FlowCLIP.from_pretrained(path, backbone=small, class_texts=names)
            assert torch.equal(found(video())["logits"], logits)
            assert found.config == config and found.class_texts == tuple(NAMES) and not found.training
        assert torch.equal(FlowCLIP.load(Path(path), small)(video())["logits"], logits)


def test_the_backbone_may_be_left_out_where_its_name_says_enough(small, saved, tmp_path):
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip/open_clip_config.json").write_text(
        json.dumps({"model_cfg": SMALL, "preprocess_cfg": {}})
    )
    save_file(small.clip.state_dict(), tmp_path / "clip/open_clip_model.safetensors")
    tower = load_other(tmp_path / "clip")
    model = trained(tower, names=["wave", "clap"])
    model.save_pretrained(tmp_path / "parts")
    found = FlowCLIP.from_pretrained(tmp_path / "parts")
    assert torch.equal(found(video(tower.width))["logits"], model(video(tower.width))["logits"])
    assert "saved: its backbone is not here, give one as backbone=" in refused(saved)  # called «test»


def test_equal_models_are_equal_files_and_equal_files_are_not_written_again(small, tmp_path):
    folder = tmp_path / "saved"
    record = of_run()
    trained(small).save_pretrained(folder, model_card_kwargs=record)
    first, before = contents(folder), {path.name: path.stat().st_ino for path in folder.iterdir()}
    trained(backbone(SMALL)).save_pretrained(folder, model_card_kwargs=record)
    assert contents(folder) == first
    assert {path.name: path.stat().st_ino for path in folder.iterdir()} == before  # a new file is another one
    other = trained(small, ModelConfig(step=2), NAMES[:3])
    other.save_pretrained(folder)
    assert all(content != first[name] for name, content in contents(folder).items())
    assert torch.equal(
        FlowCLIP.from_pretrained(folder, backbone=small)(video())["logits"], other(video())["logits"]
    )


def test_the_settings_are_readable_and_named_apart_from_what_a_model_is_built_with(saved):
    said = json.loads((saved / "config.json").read_text())
    about = said["flowclip"]
    assert ModelConfig(**about["model"]) == ModelConfig() and about["class_texts"] == NAMES
    assert about == hub.read_settings(saved) == hub.read_settings(saved / "model.safetensors")
    assert said.keys() & inspect.signature(FlowCLIP.__init__).parameters.keys() == set()


def test_a_folder_is_written_without_torch_and_without_the_hubs_library(saved, tmp_path):
    code = (
        "import sys; from pathlib import Path; from flowclip_core.model import hub; old, new = map(Path, sys.argv[1:]);"
        "file = old / hub.WEIGHTS; hub.write_folder(new, file.read_bytes(), hub.read_settings(file));"
        "print({'torch', 'open_clip', 'huggingface_hub', 'safetensors'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", code, str(saved), str(tmp_path / "copy")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "{'safetensors'}\n"
    assert contents(tmp_path / "copy") == contents(saved)


def test_what_cannot_be_saved_is_refused(small, tmp_path):
    (tmp_path / "file").write_text("mine")
    for more, why in (
        ({"save_directory": tmp_path / "file"}, "file: is a file; give the name of a folder"),
        ({"config": {"tau": 1}}, "the settings that are saved are the model's own"),
    ):
        with pytest.raises(InputError, match=why):
            trained(small).save_pretrained(**{"save_directory": tmp_path / "folder"} | more)
    assert (tmp_path / "file").read_text() == "mine" and not (tmp_path / "folder").exists()
    for record, why in (
        (run_record(CLIP), "record: of another run"),
        ({"scores": {}}, "record: not a run record"),
    ):
        with pytest.raises(InputError, match=why):
            model_card.of_run(asdict(ModelConfig()), record)


def test_a_copy_of_a_model_is_a_model_of_its_own(small):
    model = trained(small)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(video())["logits"], model(video())["logits"]) and twin.config == model.config
    assert all(twin.trained()[name] is not value for name, value in model.trained().items())


# --- whose classes, whose backbone
# ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (NAMES[:4], "4 classes, not 5"),
        ([*NAMES[:4], "walk"], "'walk' is none of its own"),
        ([*NAMES, "walk"], "6 classes, not 5, 'walk' is none of its own"),
        (NAMES[::-1], "its own names, in another order"),
    ],
)
def test_classes_that_are_not_its_own_are_refused_unless_it_is_a_transfer(names, why, small, saved):
    said = refused(saved, backbone=small, class_texts=names)
    assert f"({why})" in said and "transfer=True" in said and "zero-shot transfer" in said
    found = FlowCLIP.from_pretrained(saved, backbone=small, class_texts=names, transfer=True)
    assert found.class_texts == tuple(names)
    slow = trained(small, names=names)  # the same parts; only the texts differ
    assert torch.equal(found(video())["logits"], slow(video())["logits"])


@pytest.mark.parametrize("transfer", [False, True])
@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["walk", "run", "walk"], "'walk' is in it twice"),
        ([*NAMES[:4], NAMES[0]], "'sit down' is in it twice"),
        (["walk", " "], "a name is empty"),
        ([], "no names in it"),
        ("walk", "a list of names is needed, got 'walk'"),
        (["walk", 3], "a list of names is needed"),
    ],
)
def test_doubled_and_empty_names_are_refused(names, why, transfer, small, saved):
    assert why in refused(saved, backbone=small, class_texts=names, transfer=transfer)


def test_a_transfer_needs_names_and_a_head_of_texts(small, saved, tmp_path):
    assert "transfer=True needs the names" in refused(saved, backbone=small, transfer=True)
    trained(small, LINEAR).save_pretrained(tmp_path / "linear")
    for names in (["walk", "run"], NAMES, None):
        said = refused(tmp_path / "linear", backbone=small, class_texts=names, transfer=True)
        assert "its linear head knows its own 5 classes alone" in said


def test_another_backbone_is_refused(saved):
    said = refused(saved, backbone=backbone(SMALL, seed=1))
    assert "made with backbone test (weights" in said and str(saved) in said


# --- folders that are none
# ------------------------------------------------------------------------------------


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def changed(folder: Path, change) -> None:
    """Save the folder's tensors and settings again after `change(tensors, settings)`, without a sum of the
    tensors."""
    about, parts = hub.read_settings(folder), load_file(folder / "model.safetensors")
    del about["tensors"]
    change(parts, about)
    save_file(parts, folder / "model.safetensors", {"flowclip": json.dumps(about)})
    (folder / "config.json").write_text(json.dumps({"flowclip": about}))


def retold(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)


BROKEN = {
    "nothing in it": (
        lambda f: [path.unlink() for path in f.iterdir()],
        "lacks model.safetensors and config.json; give a folder that save_pretrained wrote",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "lacks model.safetensors;"),
    "no settings": (lambda f: (f / "config.json").unlink(), "lacks config.json;"),
    "cut weights": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-100]),
        "model.safetensors: not a readable safetensors file",
    ),
    "foreign weights": (
        lambda f: save_file({"a": torch.zeros(1)}, f / "model.safetensors"),
        "not one that flowclip",
    ),
    "other classes": (
        lambda f: retold(f, (f / "config.json").read_text().replace("smile", "frown")),
        "config.json and model.safetensors disagree about class_texts",
    ),
    "other settings": (
        lambda f: retold(f, (f / "config.json").read_text().replace('"tau": 0.07', '"tau": 0.7')),
        "config.json and model.safetensors disagree about model;",
    ),
    "no JSON": (lambda f: retold(f, "{"), "config.json: not the settings of a flowclip model"),
    "a list": (lambda f: retold(f, "[1]"), "config.json: not the settings of a flowclip model"),
    "of other software": (lambda f: retold(f, '{"model_type": "bert"}'), "config.json: not the settings"),
    "null": (lambda f: retold(f, '{"flowclip": null}'), "disagree about backbone and class_texts and model"),
    "a missing part": (lambda f: changed(f, lambda parts, _: parts.popitem()), "its parts do not fit"),
    "a part of another shape": (
        lambda f: changed(f, lambda parts, _: parts.update({"prompts.vectors": torch.zeros(1, 32)})),
        "its parts do not fit: ['prompts.vectors']",
    ),
    "an unknown setting": (
        lambda f: changed(f, lambda _, about: about["model"].update(depth=3)),
        "saved by another version of flowclip",
    ),
    "a backbone without a name": (
        lambda f: changed(f, lambda _, about: about["backbone"].update(name=None)),
        "not one that flowclip saved",
    ),
    "classes that are no names": (
        lambda f: changed(f, lambda _, about: about.update(class_texts=[1, 2])),
        "not one that flowclip saved",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_folder_that_is_broken_is_one_line(name, small, saved):
    damage, why = BROKEN[name]
    damage(saved)
    assert why in (said := refused(saved, backbone=small)) and str(saved) in said
    with pytest.raises(InputError, match=re.escape(why)):
        FlowCLIP.load(saved, small)


@pytest.mark.parametrize("where", ["file", "model.safetensors", "pytorch_model.bin", "config.json", "beside"])
def test_a_pickle_is_refused_and_not_run(where, small, saved, tmp_path):
    ran, code = tmp_path / "ran", pickle.dumps(Payload(tmp_path / "ran"))
    path = saved
    if where == "file":
        path = tmp_path / "checkpoint.pt"
        path.write_bytes(code)
    elif where == "pytorch_model.bin":
        (saved / "model.safetensors").unlink()
        (saved / where).write_bytes(code)
    elif where == "beside":  # then the other file is not even looked at
        (saved / "pytorch_model.bin").write_bytes(code)
    else:
        (saved / where).write_bytes(code)
    if where == "beside":
        assert FlowCLIP.from_pretrained(path, backbone=small).class_texts == tuple(NAMES)
    else:
        said = refused(path, backbone=small)
        assert ("pytorch_model.bin, a pickle, which can run code and is not loaded" in said) == (
            "bin" in where
        )
    assert not ran.exists()
    pickle.loads(code)
    assert ran.exists()  # the payload would have worked


# --- the hub
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def remote(monkeypatch, saved):
    """A hub with one repository «someone/actions»: `asked` notes what is fetched, `up` says whether it is
    there."""
    hub_now = SimpleNamespace(asked=[], up=True, cached=False, folder=saved)

    def gone(kind: type) -> Exception:
        response = SimpleNamespace(headers={}, request=None, status_code=404)
        return kind("404 Client Error\nsecond line", response=response)

    def model_info(self, repo_id, *, revision, token, timeout):
        assert 0 < timeout <= 5
        if not hub_now.up:
            raise ConnectionError("Name or service not known\nsecond line")
        if repo_id != "someone/actions":
            raise gone(errors.RepositoryNotFoundError)
        if revision not in (None, "v1"):
            raise gone(errors.RevisionNotFoundError)

    def snapshot_download(repo_id, *, allow_patterns, local_files_only, **more):
        hub_now.asked.append((repo_id, sorted(allow_patterns), local_files_only, more))
        if local_files_only and not hub_now.cached:
            raise errors.LocalEntryNotFoundError("Cannot find it\nsecond line")
        return str(hub_now.folder)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return hub_now


def test_a_repository_is_fetched_without_its_pickles(small, remote):
    model = FlowCLIP.from_pretrained(
        "someone/actions", backbone=small, revision="v1", token="secret", cache_dir="here"
    )
    assert torch.equal(model(video())["logits"], trained(small)(video())["logits"])
    more = {"revision": "v1", "token": "secret", "cache_dir": "here", "force_download": False}
    assert remote.asked == [("someone/actions", ["config.json", "model.safetensors"], False, more)]


def test_what_is_in_the_cache_needs_no_network(small, remote):
    remote.up, remote.cached = False, True
    FlowCLIP.from_pretrained("someone/actions", backbone=small)
    FlowCLIP.from_pretrained("someone/actions", backbone=small, local_files_only=True)
    assert [offline for _, _, offline, _ in remote.asked] == [True, True]


def test_repositories_that_cannot_be_had_are_refused_by_name(small, remote, saved, tmp_path):
    said = refused("someone/else", backbone=small)
    assert "someone/else: no such file or folder here, and no repository on the hub" in said
    assert "someone/actions: the repository has no revision 'v2'" in refused("someone/actions", revision="v2")
    remote.folder = tmp_path / "pickles"
    remote.folder.mkdir()
    said = refused("someone/actions", backbone=small)
    assert "has no model.safetensors and no config.json" in said and "pytorch_model.bin is not loaded" in said
    remote.up = False
    said = refused("someone/actions", backbone=small)
    assert "someone/actions: no such file or folder here" in said and "nor can the hub be reached" in said


def test_a_path_that_is_not_there_is_not_asked_of_the_hub(small, remote, saved, monkeypatch):
    for name in (
        "absent",
        "absent.safetensors",
        "runs/absent.safetensors",
        "/some/where",
        "./a/b",
        "a/b/c",
        "../b",
    ):
        assert f"{name}: no such file or folder; give a checkpoint" in refused(name, backbone=small)
    monkeypatch.chdir(saved.parent)
    (Path("someone") / "actions").mkdir(parents=True)
    assert "lacks model.safetensors" in refused("someone/actions", backbone=small)  # a folder comes first
    shutil.rmtree("someone")
    assert remote.asked == []


def test_the_library_itself_says_that_a_repository_is_not_there(tmp_path):
    said = refused("someone/absent", cache_dir=tmp_path, local_files_only=True)
    assert "someone/absent: no such file or folder here" in said and "fetch its files" in said
    assert "someone/ab--sent: the repository cannot be fetched" in refused(
        "someone/ab--sent", local_files_only=True
    )


class Api:
    """In the place of huggingface_hub.HfApi; nothing goes out."""

    calls: list[tuple[str, dict]] = []

    def __init__(self, token=None) -> None:
        self.calls.append(("token", {"token": token}))

    def create_repo(self, **asked):
        self.calls.append(("create_repo", asked))
        return SimpleNamespace(repo_id=f"someone/{asked['repo_id']}")

    def upload_folder(self, *, folder_path, **asked):
        self.calls.append(("upload_folder", asked | {"files": contents(Path(folder_path))}))
        return "https://example.org/commit"


def test_pushing_uploads_the_three_files(small, tmp_path, monkeypatch):
    monkeypatch.setattr(Api, "calls", [])
    monkeypatch.setattr(hub_mixin, "HfApi", Api)
    model, told = trained(small), {"model_card_kwargs": of_run()}
    assert model.push_to_hub("actions", private=True, token="secret", **told) == "https://example.org/commit"
    model.save_pretrained(tmp_path / "actions", **told)
    assert [name for name, _ in Api.calls] == ["token", "create_repo", "upload_folder"]
    asked = {name: values for name, values in Api.calls}
    assert asked["token"] == {"token": "secret"}
    assert asked["create_repo"] == {"repo_id": "actions", "private": True, "exist_ok": True}
    assert asked["upload_folder"]["repo_id"] == "someone/actions"
    assert asked["upload_folder"]["files"] == contents(tmp_path / "actions")
    assert "top-1 43.21 %" in asked["upload_folder"]["files"]["README.md"].decode()
    Api.calls.clear()
    model.save_pretrained(tmp_path / "actions", push_to_hub=True, **told)
    assert Api.calls[1][1]["repo_id"] == "actions" and Api.calls[2][1]["files"] == contents(
        tmp_path / "actions"
    )


# --- the model card
# -------------------------------------------------------------------------------------------


def about(
    config: ModelConfig | None = None, name: str = "ViT-B-16", pretrained: str | None = "openai"
) -> dict:
    tower = {"name": name, "pretrained": pretrained, "weights": "5ec0" * 16}
    return {
        "model": asdict(config or ModelConfig()),
        "class_texts": ["brush hair", "a|b *c*"],
        "backbone": tower,
    }


def test_the_card_says_what_how_and_how_well():
    few = hub.card(about(), **of_run("hmdb51", train=TrainConfig(lr=0.0015)))
    for said in (
        "Seeing in Flowing", "10.1145/3581783.3612490", "ViT-B-16 with weights `openai`", "5ec0" * 16,
        r"brush hair, a\|b \*c\*", "hmdb51, split 1, 16 training videos a class (321 in all)",
        "SGD, 50 epochs, batch 32, learning rate 0.0015, seed 7, on cpu",
        "123 videos, 4x3 views: top-1 43.21 %, top-5 87.65 %", "run 0123456789abcdef, with torch 2.9",
    ):  # fmt: skip
        assert said in few, said
    train = TrainConfig(lr=0.4, epochs=None, steps=200)
    other = hub.card(about(), **of_run("hmdb51", k=None, split=3, train=train))
    assert (
        "split 3, all training videos (321" in other
        and "SGD, 200 steps, batch 32, learning rate 0.4" in other
    )
    moved = hub.card(about(), **of_run("hmdb51", transfer=Transfer("ucf101", split=2)))
    assert "data: hmdb51" in moved and "test: ucf101, split 2, 123 videos" in moved
    chosen = hub.card(about(), **of_run("hmdb51", held_out=True))
    assert "training videos set aside" in chosen and "set aside" not in few
    assert "No run record came with it" in hub.card(about()) and "top-1" not in hub.card(about())


def test_the_card_of_the_demo_world_says_that_it_is_no_evidence():
    note = "demo world: not evidence about the paper's data"
    for dataset, transfer, demo in (
        ("figures-h", None, True), ("hmdb51", None, False), ("hmdb51", Transfer("figures-u"), True),
    ):  # fmt: skip
        card = hub.card(about(), **of_run(dataset, transfer=transfer))
        assert (note in card) == demo
    assert note in hub.card(about(name="tiny-clip", pretrained=None)) and note not in hub.card(about())


def test_the_card_names_a_weights_file_and_not_the_folder_it_lay_in():
    card = hub.card(about(pretrained="/data/someone/own.safetensors"))
    assert "own.safetensors" in card and "someone" not in card
    assert "random weights" in hub.card(about(pretrained=None))


def test_the_hubs_library_reads_the_card(small, saved):
    card = ModelCard((saved / "README.md").read_text())
    assert card.data.library_name == "flowclip" and card.data.pipeline_tag == "video-classification"
    assert str(trained(small).generate_model_card()) == str(card) == (saved / "README.md").read_text()


def test_the_lines_of_code_in_the_card_load_the_model(tmp_path):
    model = trained(load_backbone(), names=["wave", "clap"])
    model.save_pretrained(tmp_path)
    code = re.search(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)[1]
    assert len(code.splitlines()) == 4
    space: dict = {}
    exec(code.replace("FOLDER or user/name", str(tmp_path)), space)
    assert torch.equal(
        space["model"](video(model.backbone.width))["logits"], model(video(model.backbone.width))["logits"]
    )
