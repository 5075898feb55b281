"""The demo's frozen CLIP, embedded in the kit: a tiny open_clip model that knows drawn stills and their
words.

`makers.pretrain` made its weights.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from flowclip_core.config import TINY
from flowclip_core.errors import InputError
from flowclip_core.files import sha256
from flowclip_core.model.backbone import Backbone
from flowclip_core.model.backbone import load_backbone as load_other
from flowclip_kit.demo.world import WEIGHTS, weights_of
from flowclip_kit.weights import check_contents

if TYPE_CHECKING:
    from open_clip.model import CLIP

FOLDER = WEIGHTS.parent


def load_backbone(
    name: str | Path = TINY, pretrained: str | None = None, seed: int = 0, device: str = "cpu"
) -> Backbone:
    """The frozen CLIP `name`: `tiny-clip`, which knows drawn figures, or what `flowclip_core.load_backbone`
    takes.

    pretrained: of the tiny CLIP, a folder that `makers.pretrain` wrote; default its own weights. Raises
    InputError as `load_backbone` does, and for a folder without such weights.
    """
    if name != TINY:
        if not (isinstance(name, Path) or Path(name).is_dir()):
            check_contents(name, pretrained)
        return load_other(name, pretrained, seed, device)
    path = weights_of(pretrained)
    return Backbone(load_tiny_clip(path.parent), TINY, None if path == WEIGHTS else pretrained).to(device)


def untrained(seed: int) -> CLIP:
    """The tiny CLIP before training; global random numbers are left as they were."""
    import torch
    from open_clip.model import CLIP

    config = json.loads((FOLDER / "tiny_clip.json").read_text())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIP(**config)
        model.token_embedding.weight.data.normal_(std=0.02, generator=torch.Generator().manual_seed(seed))
    return model


def load_tiny_clip(folder: Path = FOLDER) -> CLIP:
    """The pre-trained tiny CLIP: an open_clip model in evaluation mode, float32, 64x64 pixels, width 64.

    Rows of the token table that no caption ever used come from the seeded initialiser: two loads are equal to
    the bit. Global random numbers are left alone. Raises InputError if the weights are missing or are not
    those that the log beside them describes.
    """
    path, log_path = folder / "tiny_clip.safetensors", folder / "tiny_clip.log.json"
    for needed in (path, log_path):
        if not needed.is_file():
            raise InputError(
                f"{needed}: missing; restore it or run python -m flowclip_kit.demo.makers.pretrain"
            )
    log = json.loads(log_path.read_text())
    if sha256(path) != log["sha256"]:
        raise InputError(
            f"{path}: altered (SHA-256 differs from that in {log_path.name}); restore both files"
        )
    from safetensors.torch import load_file

    state = load_file(path)
    ids, rows = state.pop("token_ids"), state.pop("token_rows")
    model = untrained(log["seed"])
    state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    table = model.token_embedding.weight.data
    table[ids] = rows.float()
    model.load_state_dict(state | {"token_embedding.weight": table})
    return model.eval()


@cache
def known_tokens() -> frozenset[int]:
    """Ids of the tokens that the tiny CLIP met in training; all others are random vectors to it."""
    return frozenset(json.loads((FOLDER / "tiny_clip.log.json").read_text())["token_ids"])


@cache
def word_tokens(word: str) -> tuple[int, ...]:
    """CLIP's tokens of one word."""
    return tuple(_tokenizer().encode(word))


@cache
def _tokenizer():
    import open_clip

    return open_clip.tokenizer.SimpleTokenizer()


def unknown_words(text: str) -> list[str]:
    """The words of `text` that the tiny CLIP has never met: a token of theirs was in no caption."""
    words = dict.fromkeys(re.findall(r"[\w'-]+", text))
    return [word for word in words if not known_tokens().issuperset(word_tokens(word))]
