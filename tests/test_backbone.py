"""Which network a backbone's name means, and what its hash notices."""

from __future__ import annotations

import io
import pickle
import shutil
import warnings
from pathlib import Path

import huggingface_hub
import open_clip
import pytest
import torch
from conftest import SMALL, backbone, fixed
from safetensors.torch import save_file

from flowclip_core import FlowCLIP, ModelConfig
from flowclip_core.errors import InputError
from flowclip_kit.demo.backbone import load_backbone
from flowclip_kit.experiments import counting
from flowclip_kit.weights import weights_file


@pytest.fixture
def small_name(monkeypatch) -> str:
    """A model of a test's size among open_clip's."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-small", SMALL)
    return "ViT-small"


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("name", "pretrained", "meant"),
    [
        ("ViT-B-16", None, "ViT-B-16-quickgelu"),
        ("ViT-B-16", "none", "ViT-B-16-quickgelu"),
        ("ViT-B-16", "weights.safetensors", "ViT-B-16-quickgelu"),
        ("ViT-L-14-quickgelu", None, "ViT-L-14-quickgelu"),
        ("ViT-B-16-plus-240", None, "ViT-B-16-plus-240"),
    ],
)
def test_openai_names_mean_quickgelu_for_files_too(name, pretrained, meant, monkeypatch, tmp_path):
    asked = []

    def create(model, pretrained):
        asked.append(model)
        return open_clip.model.CLIP(**SMALL)

    monkeypatch.setattr(open_clip, "create_model", create)
    if pretrained == "weights.safetensors":
        pretrained = str(tmp_path / pretrained)
        (tmp_path / "weights.safetensors").touch()
    load_backbone(name, pretrained)
    assert asked == [meant]


def test_the_hash_notices_weights_activation_and_normalisation():
    plain, again, other = backbone(SMALL), backbone(SMALL), backbone(SMALL, seed=1)
    assert plain.weights_hash == again.weights_hash != other.weights_hash
    again = backbone(SMALL)
    again.mean += 0.1
    assert again.weights_hash != plain.weights_hash
    soft = backbone(SMALL)
    for block in soft.clip.transformer.resblocks:
        block.mlp.gelu = torch.nn.GELU()
    assert soft.weights_hash != plain.weights_hash


def test_a_text_tower_that_is_not_clips_is_refused():
    with pytest.raises(InputError, match="not CLIP's causal transformer"):
        backbone(SMALL | {"text_cfg": SMALL["text_cfg"] | {"no_causal_mask": True}})


# --- widths -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "width", "text_width", "size"),
    [
        ("ViT-B-32", 512, 512, 224),
        ("ViT-B-16", 512, 512, 224),
        ("ViT-L-14", 768, 768, 224),
        ("ViT-L-14-336", 768, 768, 336),
        ("RN50", 1024, 512, 224),
    ],
)
def test_widths_follow_the_name(name, width, text_width, size):
    tower = counting.weightless(f"{name}-quickgelu")
    assert (tower.width, tower.text_width, tower.image_size, tower.context) == (width, text_width, size, 77)


def test_a_text_tower_of_another_width_than_the_shared_space():
    tower = backbone(SMALL | {"text_cfg": SMALL["text_cfg"] | {"width": 48, "heads": 3}})
    assert (tower.width, tower.text_width) == (32, 48)
    frames = tower.encode_frames((fixed(16, 3, 32, 32) * 127 + 128).to(torch.uint8)).unflatten(0, (2, 8))
    model = FlowCLIP(ModelConfig(), tower, ["wave", "sit down", "clap"])
    out = model(frames)
    assert (
        out["prompts"].shape == (2, 5, 48)
        and out["texts"].shape == (2, 3, 32)
        and out["logits"].shape == (2, 3)
    )
    out["logits"].sum().backward()
    assert all(value.grad is not None for value in model.trained().values())
    # The way through the text tower is the peers' way, one full sequence a text.
    words = tower.tokenize("sit down.")
    sos, eos = (tower.embed_tokens(torch.tensor([token])) for token in tower.borders)
    text = torch.cat([sos, out["prompts"][1], tower.embed_tokens(torch.tensor(words)), eos])
    plain = tower.encode_prompts(text[None], torch.tensor([len(text) - 1]))[0]
    torch.testing.assert_close(out["texts"][1, 1], plain, rtol=1e-4, atol=1e-5)


# --- precision of the image tower -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_the_image_tower_alone(dtype):
    pixels = (fixed(6, 3, 32, 32) * 127 + 128).to(torch.uint8)
    plain, half = backbone(SMALL), backbone(SMALL)
    assert half.encode_precision(dtype) is half
    exact, found = plain.encode_frames(pixels), half.encode_frames(pixels)
    assert found.dtype == getattr(torch, dtype) and exact.dtype == torch.float32
    error = (found.float() - exact).norm() / exact.norm()
    assert 0 < error < 0.02
    assert half.weights_hash == plain.weights_hash
    embeddings, end = plain.embed_tokens(torch.tensor([[49406, 7, 9, 49407]])), torch.tensor([3])
    assert torch.equal(half.encode_prompts(embeddings, end), plain.encode_prompts(embeddings, end))


def test_float32_changes_nothing_and_a_cast_is_not_undone():
    pixels = (fixed(2, 3, 32, 32) * 127 + 128).to(torch.uint8)
    plain, again = backbone(SMALL), backbone(SMALL).encode_precision("float32")
    assert torch.equal(plain.encode_frames(pixels), again.encode_frames(pixels))
    again.encode_precision("bfloat16").encode_precision("bfloat16")
    for dtype in ("float32", "float16"):
        with pytest.raises(InputError, match="load the backbone again"):
            again.encode_precision(dtype)
    with pytest.raises(InputError, match="'int8' is unknown; use float32, bfloat16, float16"):
        plain.encode_precision("int8")


# --- weights ----------------------------------------------------------------------------------------------------


def test_a_weights_file_gives_the_weights_in_it(small_name, tmp_path):
    wanted, other = load_backbone(small_name, seed=1), load_backbone(small_name)
    path = tmp_path / "own.safetensors"
    save_file(wanted.clip.state_dict(), path)
    found = load_backbone(small_name, str(path))
    assert found.weights_hash == wanted.weights_hash != other.weights_hash
    assert weights_file(small_name, str(path)) == path
    assert weights_file(small_name, str(tmp_path / "absent.safetensors")) is None


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("empty.pt", lambda path: path.touch()),
        ("text.bin", lambda path: path.write_text("text text\n" * 9)),
        ("text.safetensors", lambda path: path.write_text("text text\n" * 9)),
        ("list.pt", lambda path: torch.save([1], path)),
        ("nothing.pt", lambda path: torch.save({}, path)),
        ("nothing.safetensors", lambda path: save_file({}, path)),
        ("other.safetensors", lambda path: save_file({"a": torch.zeros(1)}, path)),
    ],
)
def test_a_file_that_holds_no_such_weights_is_one_line(name, write, small_name, tmp_path):
    write(tmp_path / name)
    with pytest.raises(InputError, match=f"{name}' do not fit: .") as error:
        load_backbone(small_name, str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_random_embedded_and_unknown_weights_have_no_file():
    for name, tag in (
        ("ViT-B-16", None),
        ("ViT-B-16", "none"),
        ("tiny-clip", None),
        ("no", "openai"),
        ("RN50", "no"),
    ):
        assert weights_file(name, tag) is None


def cache(tmp_path: Path, repo: str, *files: str) -> Path:
    """A hub cache with one version of a repository."""
    home = tmp_path / f"models--{repo.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    for file in files:
        (home / "snapshots" / ("0" * 40)).mkdir(parents=True, exist_ok=True)
        (home / "snapshots" / ("0" * 40) / file).write_text("weights")
    return home


def test_a_tag_is_found_in_the_cache_where_the_library_keeps_it_and_asks_nobody(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert weights_file("ViT-B-16", "openai") is None
    home = cache(tmp_path, "timm/vit_base_patch16_clip_224.openai", "open_clip_pytorch_model.bin")
    assert weights_file("ViT-B-16", "openai").name == "open_clip_pytorch_model.bin"
    shutil.rmtree(home)
    both = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    home = cache(tmp_path, "timm/vit_base_patch16_clip_224.openai", *both)
    found = weights_file("ViT-B-16", "openai")
    assert found == home / "snapshots" / ("0" * 40) / "open_clip_model.safetensors"
    assert weights_file("ViT-B-32", "openai") is None  # another repository

    def asked(*_, **__):
        raise AssertionError("the weights are there, nobody is to be asked")

    def create(model, pretrained):
        assert (model, pretrained) == ("ViT-B-16-quickgelu", "openai")
        return open_clip.model.CLIP(**SMALL)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", asked)
    monkeypatch.setattr(open_clip, "create_model", create)
    assert load_backbone("ViT-B-16", "openai").about == "ViT-B-16 with weights 'openai'."


def test_a_tag_whose_repository_names_its_file(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    home = cache(tmp_path, "jienengchen/ViTamin-B", "pytorch_model.bin")
    assert weights_file("ViTamin-B", "datacomp1b") == home / "snapshots" / ("0" * 40) / "pytorch_model.bin"


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("ViT-B-16", "open_clip_model.safetensors of timm/vit_base_patch16_clip_224.openai in its place"),
        ("ViT-L-14", "open_clip_model.safetensors of timm/vit_large_patch14_clip_224.openai in its place"),
        ("ViT-H-14", "open_clip_model.safetensors, which open_clip saves, in its place"),
    ],
)
def test_openais_own_file_is_refused_and_says_what_to_take(name, instead, tmp_path):
    path = tmp_path / f"{name}.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch wants other formats by now; OpenAI's files stay as they are
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)
    with pytest.raises(InputError, match="TorchScript archive") as error:
        load_backbone(name, str(path))
    assert str(error.value).endswith(f"take {instead}") and str(path) in str(error.value)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".safetensors"])
@pytest.mark.parametrize("write", [pickle.dumps, torch.save], ids=["pickle", "torch.save"])
def test_a_pickle_in_the_place_of_weights_is_refused_and_not_run(suffix, write, small_name, tmp_path):
    path, ran = tmp_path / f"weights{suffix}", tmp_path / "ran"
    weights = {"state_dict": {"logit_scale": torch.zeros(1), "more": Payload(ran)}}
    if write is pickle.dumps:
        path.write_bytes(pickle.dumps(weights))
    else:
        torch.save(weights, path)
    with pytest.raises(InputError, match=f"weights{suffix}' do not fit") as error:
        load_backbone(small_name, str(path))
    assert "\n" not in str(error.value) and "weights_only" not in str(error.value) and not ran.exists()
    if write is pickle.dumps:
        pickle.loads(path.read_bytes())
    else:
        torch.load(io.BytesIO(path.read_bytes()), weights_only=False)
    assert ran.exists()  # the payload would have worked
