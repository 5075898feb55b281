"""The frozen CLIP, behind two functions: frames -> features and prompt embeddings -> text features.

Letters: N images or texts, L tokens, D width of the shared space, W width of the text tower.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import warnings
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn

from flowclip_core.config import PRECISIONS, TINY
from flowclip_core.errors import InputError, NotFinite
from flowclip_core.model.hub import HUB_SECONDS

WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".bin")


class Backbone(nn.Module):
    """A frozen open_clip model. Its parameters get no gradient; gradients still flow through the text tower.

    Raises InputError where the text tower is not CLIP's: causal, plain blocks, read at the end-of-text token.
    """

    def __init__(self, clip: nn.Module, name: str, pretrained: str | None, tokenizer=None) -> None:
        super().__init__()
        self.clip = clip.eval().requires_grad_(False)
        self.name, self.pretrained = name, pretrained
        self.tokenizer = tokenizer or open_clip.get_tokenizer("ViT-B-16")
        self._hash: str | None = None
        blocks = getattr(getattr(clip, "transformer", None), "resblocks", None)
        plain = blocks is not None and all(
            type(block).__name__ == "ResidualAttentionBlock" for block in blocks
        )
        if not plain or clip.attn_mask is None or clip.text_pool_type != "argmax":
            raise InputError(
                f"backbone {name}: its text tower is not CLIP's causal transformer; use ViT-B-32, ViT-B-16 or ViT-L-14"
            )
        picture = open_clip.get_model_preprocess_cfg(clip)
        self.image_size: int = picture["size"] if isinstance(picture["size"], int) else picture["size"][0]
        for constant, default in (
            ("mean", open_clip.OPENAI_DATASET_MEAN),
            ("std", open_clip.OPENAI_DATASET_STD),
        ):
            value = torch.tensor(picture.get(constant) or default, dtype=clip.positional_embedding.dtype)
            self.register_buffer(constant, value.view(1, 3, 1, 1), persistent=False)

    @property
    def width(self) -> int:
        """D, the width of the space that images and texts share (512 for ViT-B/16)."""
        return self.clip.text_projection.shape[1]

    @property
    def text_width(self) -> int:
        """W, the width of the text tower's tokens (512 for ViT-B/16)."""
        return self.clip.token_embedding.embedding_dim

    @property
    def context(self) -> int:
        """Tokens the text tower can take (77)."""
        return self.clip.positional_embedding.shape[0]

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.mean.device

    def train(self, mode: bool = True) -> Backbone:
        """Stays in evaluation mode: the towers are frozen (section 4.1)."""
        return super().train(False)

    def encode_precision(self, dtype: str) -> Backbone:
        """Cast the image tower alone to `float32`, `bfloat16` or `float16`; returns this backbone.

        The text tower and `weights_hash` stay those of float32, so a cast is to be named beside the hash.
        Raises InputError for another name, or for a second cast: what the first one rounded off is gone;
        NotFinite for weights that are too large for it.
        """
        if dtype not in PRECISIONS:
            raise InputError(f"precision {dtype!r} is unknown; use {', '.join(PRECISIONS)}")
        if getattr(torch, dtype) != self.tower_dtype:
            if self.tower_dtype != torch.float32:
                raise InputError(
                    f"the image tower is {self.tower_dtype} already; load the backbone again for {dtype}"
                )
            _ = self.weights_hash  # kept from here on
            self.clip.visual.to(getattr(torch, dtype))
            _need_finite(self.clip.visual, f"--precision {dtype}: backbone {self.name}", "; take float32")
        return self

    @property
    def tower_dtype(self) -> torch.dtype:
        """The type that the image tower computes in."""
        return next(self.clip.visual.parameters()).dtype

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Frame features I (N,D): projected into the shared space, before normalisation; in the image tower's
        dtype.

        frames: uint8 (N,3,size,size), RGB, with size = `image_size`.
        """
        pixels = frames.to(self.mean.device, self.mean.dtype).div_(255).sub_(self.mean).div_(self.std)
        return self.clip.encode_image(pixels.to(self.tower_dtype))

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Rows of the token table (..., W), without positions."""
        return self.clip.token_embedding(tokens)

    def encode_prompts(self, embeddings: Tensor, end: Tensor) -> Tensor:
        """Text features (N,D) of token embeddings (N,L,W) given without positions, read at token `end` (N,).

        The way every peer does it, one full sequence a text; `prompt_tree` gives the same values for far less
        work.
        """
        clip, length = self.clip, embeddings.shape[1]
        hidden = embeddings + clip.positional_embedding[:length]
        hidden = clip.ln_final(clip.transformer(hidden, attn_mask=clip.attn_mask[:length, :length]))
        return hidden[torch.arange(len(hidden), device=hidden.device), end] @ clip.text_projection

    def tokenize(self, text: str) -> list[int]:
        """Token ids of `text` without the two border tokens."""
        return self.tokenizer.encode(text)

    @property
    def borders(self) -> tuple[int, int]:
        """Token ids of [SOS] and [EOS] (Eq. 7)."""
        return self.tokenizer.sot_token_id, self.tokenizer.eot_token_id

    @property
    def weights_hash(self) -> str:
        """SHA-256 over all weights and what else decides a feature: activation, picture size and
        normalisation.

        Two backbones with equal hashes give equal features.
        """
        if self._hash is None:
            acts = type(self.clip.transformer.resblocks[0].mlp.gelu).__name__
            picture = [self.image_size, self.mean.flatten().tolist(), self.std.flatten().tolist()]
            digest = hashlib.sha256(f"{acts} {picture}".encode())
            for name, tensor in sorted(self.clip.state_dict().items()):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
            self._hash = digest.hexdigest()
        return self._hash

    @property
    def about(self) -> str:
        """One sentence on what this model can know."""
        if self.name == TINY:
            return (
                "The embedded tiny CLIP has only seen drawn figures: on real video its answers mean nothing."
            )
        if self.pretrained is None:
            return f"{self.name} has random weights: its answers mean nothing, only the path is real."
        return f"{self.name} with weights {self.pretrained!r}."


# Of a folder that holds a model, as open_clip saves one.
FOLDER = ("open_clip_config.json", "open_clip_model.safetensors")


def load_backbone(
    name: str | Path = "ViT-B-16", pretrained: str | None = None, seed: int = 0, device: str = "cpu"
) -> Backbone:
    """The frozen CLIP called `name`.

    name: an open_clip name, or a folder with open_clip's `open_clip_config.json` and
    `open_clip_model.safetensors`. OpenAI's models use QuickGELU, so `ViT-B-16` means open_clip's
    `ViT-B-16-quickgelu`, for a weights file too, unless the tag of other weights is given.
    pretrained: an open_clip tag (`openai`), a weights file, or None (also "none") for random weights drawn
    from `seed`.
    Raises InputError for an unknown name or tag, an unreadable file, or weights that are neither cached nor
    reachable; NotFinite for weights that are not all finite numbers.
    """
    pretrained = None if pretrained in (None, "", "none") else str(pretrained)
    if name == TINY:
        raise InputError(
            f"backbone {TINY} is the demo's: flowclip_kit.demo.backbone.load_backbone() loads it"
        )
    if isinstance(name, Path) or Path(name).is_dir():
        return _from_folder(Path(name), pretrained).to(device)
    check_weights(name, pretrained)
    model = model_name(name, pretrained)
    source = _weights(model, pretrained) if pretrained else None
    level = logging.getLogger().level
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol")  # of a file that is refused anyway
        torch.manual_seed(seed)
        logging.getLogger().setLevel(
            logging.ERROR
        )  # open_clip warns through the root logger on random weights
        try:
            clip = open_clip.create_model(model, pretrained=source)
        except Exception as error:  # what is no weights file fails in the reader in any way at all
            if source is None:
                raise
            why = next(iter(str(error).splitlines()), type(error).__name__)
            if isinstance(error, pickle.UnpicklingError):  # torch's advice there is to run the file's code
                why = "no weights file, or one that holds more than tensors, which is not run; take a .safetensors file"
            raise InputError(f"backbone {name}: weights {pretrained!r} do not fit: {why}") from error
        finally:
            logging.getLogger().setLevel(level)
    _need_finite(
        clip, f"--pretrained {pretrained}: backbone {name}", "; the file is damaged, take another copy"
    )
    return Backbone(clip, name, pretrained, open_clip.get_tokenizer(model)).to(device)


def _from_folder(folder: Path, pretrained: str | None) -> Backbone:
    if missing := [file for file in FOLDER if not (folder / file).is_file()]:
        raise InputError(
            f"backbone {folder}: lacks {' and '.join(missing)}; give a folder with {' and '.join(FOLDER)}"
        )
    if pretrained not in (None, FOLDER[1]):  # a saved model names them so
        raise InputError(
            f"backbone {folder}: brings its own weights; leave pretrained out (got {pretrained!r})"
        )
    try:
        clip = open_clip.create_model(f"local-dir:{folder.absolute()}")
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder.absolute()}")
    except Exception as error:  # what is no model fails in the reader in any way at all
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"backbone {folder}: cannot be loaded: {why}") from error
    _need_finite(clip, f"backbone {folder}", "; the file is damaged, take another copy")
    return Backbone(clip, str(folder), FOLDER[1], tokenizer)


def _need_finite(tower: nn.Module, what: str, so: str) -> None:
    """Raises NotFinite naming the first weight that is not all finite numbers."""
    for name, value in tower.state_dict().items():
        if not value.sum().isfinite() and not value.isfinite().all():  # the sum alone is 10 times faster
            raise NotFinite(f"{what}: its weights {name} are not all finite numbers{so}")


def check_weights(name: str, pretrained: str | None) -> None:
    """Raises InputError for a name, a tag or a file that is not there, without the network."""
    model = model_name(name, pretrained)
    if model not in open_clip.list_models():
        raise InputError(
            f"backbone {name!r} is unknown; use {TINY}, ViT-B-32, ViT-B-16, ViT-L-14 or another open_clip name"
        )
    if pretrained is None:
        return
    if Path(pretrained).suffix in WEIGHT_FILES:
        if not Path(pretrained).exists():
            raise InputError(f"--pretrained {pretrained}: no such file")
    elif pretrained not in open_clip.list_pretrained_tags_by_model(model):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise InputError(
            f"--pretrained {pretrained!r}: {model} has no such weights; it has {tags}, or give a file"
        )


def model_name(name: str, pretrained: str | None) -> str:
    """open_clip's name: OpenAI's architectures are its `-quickgelu` ones."""
    ours = pretrained in (None, "openai") or Path(pretrained).suffix in WEIGHT_FILES
    return f"{name}-quickgelu" if ours and f"{name}-quickgelu" in open_clip.list_models() else name


def hub_files(model: str, tag: str) -> tuple[str, tuple[str, ...]]:
    """The hub repository of a tag's weights («» when there is none) and its files in the order that open_clip
    tries."""
    repo, _, file = open_clip.get_pretrained_cfg(model, tag).get("hf_hub", "").rpartition("/")
    if not file:
        return repo, ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    return repo, (str(Path(file).with_suffix(".safetensors")), file)


def cached(repo: str, files: tuple[str, ...]) -> Path | None:
    import huggingface_hub

    found = (huggingface_hub.try_to_load_from_cache(repo, file) for file in files if repo)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def _weights(model: str, pretrained: str) -> str:
    """A file or tag that open_clip can load at once; the network is asked first, and only for a few
    seconds."""
    if Path(pretrained).suffix in WEIGHT_FILES:
        return pretrained
    import huggingface_hub

    repo, files = hub_files(model, pretrained)
    if cached(repo, files):
        return pretrained
    try:
        huggingface_hub.HfApi().model_info(repo, timeout=HUB_SECONDS)
    except Exception as error:
        from huggingface_hub.constants import HF_HUB_CACHE

        raise InputError(
            f"weights {pretrained!r} of {model} are not in {HF_HUB_CACHE} and the hub cannot be reached; fetch"
            f" {files[0]} of {repo} where there is a network and give it as --pretrained FILE, or use --pretrained none"
        ) from error
    return pretrained
