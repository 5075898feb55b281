"""Which network a backbone's name means, and what its hash notices."""

from __future__ import annotations

import open_clip
import pytest
import torch
from conftest import SMALL, backbone

from flowclip_core.errors import InputError
from flowclip_core.model.backbone import load_backbone


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
