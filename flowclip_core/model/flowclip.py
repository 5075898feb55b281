"""The whole method, Figure 1 as a forward pass.

Letters: B videos, T frames, L differences, K classes, H prompt vectors, D shared width, W text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard, ModelHubMixin
from safetensors.torch import save
from torch import Tensor, nn

from flowclip_core.config import ModelConfig
from flowclip_core.errors import InputError
from flowclip_core.files import to_json, write_atomically
from flowclip_core.model import hub
from flowclip_core.model.backbone import Backbone, load_backbone
from flowclip_core.model.communication import CommunicationBlock
from flowclip_core.model.motion import MotionModelingBlock, seeded
from flowclip_core.model.prompt_tree import PromptTree
from flowclip_core.model.prompts import MotionAwarePrompts, prompt_vectors


class FlowCLIP(nn.Module, ModelHubMixin):
    """A frozen CLIP with the parts that `config` switches on; `forward` returns every intermediate."""

    motion_modeling: MotionModelingBlock
    prompts: MotionAwarePrompts | None
    communication: CommunicationBlock | None
    head: nn.Linear | None
    tree: PromptTree
    static_texts: Tensor  # (1,K,D), without learnt prompts

    def __init__(
        self,
        config: ModelConfig,
        backbone: Backbone,
        class_texts: Sequence[str],
        seed: int = 0,
        tree: PromptTree | None = None,
    ) -> None:
        """config: which parts are on, and their sizes. backbone: the frozen CLIP.

        class_texts: the K class names as they stand in the prompt ("brush hair").
        seed: draws the new parts. Each part has a stream of its own, so two variants with equal seeds start
        equal where they share parts.
        tree: of another model with the same backbone, classes and prompt length, to build it only once.
        Raises InputError for class names that are empty, doubled or too long, and for heads that do not
        divide D.
        """
        super().__init__()
        self.config, self.backbone, self.class_texts = config, backbone, tuple(class_texts)
        initial = prompt_vectors(backbone, config.prompt)
        parts = _parts(config, backbone.width, initial, len(self.class_texts), seed)
        self.tree = tree or PromptTree(backbone, class_texts, len(initial))
        self.prompts = self.communication = self.head = None
        for name, part in parts.items():
            setattr(self, name, part)
        if not config.map:
            with torch.no_grad():  # static texts do not depend on the video: encoded once
                self.register_buffer("static_texts", self.tree(initial[None]), persistent=False)
        self.to(backbone.mean.device)

    def forward(self, frames: Tensor, prompt_motion: Tensor | None = None) -> dict[str, Tensor]:
        """All intermediates of one batch of videos. frames: (B,T,D) frame features I.

        prompt_motion: (B,D) motion of other videos for the prompts to follow instead, a control.
        """
        out = self.encode_video(frames, prompt_motion)
        texts = self.static_texts if self.prompts is None else self.tree(out["prompts"])
        return self.score_classes(out, texts)

    def encode_video(self, frames: Tensor, prompt_motion: Tensor | None = None) -> dict[str, Tensor]:
        """The video's side, up to the prompts that its motion shifts; arguments as for `forward`."""
        expected = (self.config.frames, self.backbone.width)
        if frames.ndim != 3 or frames.shape[1:] != expected:
            raise InputError(
                f"frame features have shape {tuple(frames.shape)}; this model takes"
                f" (B, T={expected[0]}, D={expected[1]})"
            )
        out = self.motion_modeling(frames, self.config.step)  # Eq. 4 to 6
        if self.prompts is not None:
            motion = out.get("motion") if prompt_motion is None else prompt_motion
            out["prompts"] = self.prompts(motion)  # (B,H,W), or (1,H,W) for all; Eq. 7
        return out

    def score_classes(self, out: dict[str, Tensor], texts: Tensor) -> dict[str, Tensor]:
        """`out` of `encode_video` and what comes after: logits (B,K). texts: (B,K,D), or (1,K,D) for all."""
        config = self.config
        out = out | {"texts": texts.expand(len(out["video"]), -1, -1)}  # (B,K,D)
        out["video_out"], out["texts_out"] = out["video"], out["texts"]
        if self.communication is not None:
            tokens = out["video"][:, None]  # (B,1,D)
            if config.video_tokens == "sequence":  # (B,T+L,D)
                streams = [out.get("spatial_tokens", out["frames"]), out.get("motion_tokens")]
                tokens = torch.cat([stream for stream in streams if stream is not None], 1)
            out["texts_out"], out["video_out"] = self.communication(
                out["texts"], out["video"], tokens
            )  # Eq. 2
        if self.head is not None:
            out["logits"] = self.head(F.normalize(out["video_out"], dim=-1) / config.tau)
        else:
            cosine = F.cosine_similarity(out["texts_out"], out["video_out"][:, None], dim=-1)  # (B,K)
            out["logits"] = cosine / config.tau  # Eq. 3
        return out

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by name; the frozen CLIP has none."""
        return {_saved(name): value for name, value in self.named_parameters() if value.requires_grad}

    # --- saving and loading, see `hub`

    def save(self, path: Path) -> Path:
        """Write the trained parts, the settings and the class texts into one safetensors file, atomically.

        Raises NotFinite for a part that `load` would refuse.
        """
        return write_atomically(path, self._checkpoint()[0])

    @classmethod
    def load(
        cls,
        path: Path,
        backbone: Backbone,
        class_texts: Sequence[str] | None = None,
        tree: PromptTree | None = None,
    ) -> FlowCLIP:
        """The model saved at `path`, for its own classes or for others (zero-shot transfer, section 4.4).

        path: a file that `save` wrote, or a folder that `save_pretrained` wrote. Raises InputError for
        another kind of file, another backbone, parts that do not fit or hold values that are not finite or
        huge, or a linear head that is to name other classes.
        """
        about = hub.read_settings(path)
        origin, own = about["backbone"], about["class_texts"]
        if origin["weights"] != backbone.weights_hash:
            raise InputError(
                f"{path}: made with backbone {origin['name']} (weights {origin['weights'][:12]}), not with"
                f" {backbone.name} ({backbone.weights_hash[:12]}); choose it with --backbone and --pretrained"
            )
        texts, config = class_texts or own, ModelConfig(**about["model"])
        if config.head == "linear" and list(texts) != own:
            raise InputError(f"{path}: its linear head knows its own {len(own)} classes alone")
        # Compared before anything of the sizes that a file claims is built.
        initial = prompt_vectors(backbone, config.prompt)
        with torch.device("meta"):
            expected = nn.ModuleDict(_parts(config, backbone.width, initial.to("meta"), len(own)))
        tensors = hub.read_parts(path, {_saved(name): value for name, value in expected.named_parameters()})
        model = cls(config, backbone, texts, tree=tree)
        with torch.no_grad():
            for name, value in model.trained().items():
                value.copy_(tensors[name])
        return model.eval()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        backbone: Backbone | None = None,
        class_texts: Sequence[str] | None = None,
        transfer: bool = False,
        **download: Any,
    ) -> FlowCLIP:
        """The model that `save_pretrained` wrote into a folder, or `push_to_hub` into a repository
        "user/name".

        backbone: the one it was trained on; left out, it is loaded by the name and weights it was saved with.
        class_texts: its own classes; with `transfer`, others to name (zero-shot transfer, section 4.4).
        download: revision, cache_dir, token, force_download, local_files_only, as in huggingface_hub.
        Raises InputError as `load` does, for class names that are not its own, doubled or empty, for a folder
        without the files or with ones that disagree, and for a repository that cannot be fetched.
        """
        # Not the mixin's hook `_from_pretrained`: before calling it, the mixin downloads without a time limit
        # and parses a stranger's config.json unchecked.
        path = hub.find(pretrained_model_name_or_path, **download)
        about = hub.read_settings(path)
        texts = hub.class_names(path, about, class_texts, transfer)
        if backbone is None:
            origin = about["backbone"]
            try:
                backbone = load_backbone(origin["name"], origin["pretrained"])
            except InputError as error:
                raise InputError(
                    f"{path}: its backbone is not here, give one as backbone=; {error}"
                ) from error
        return cls.load(path, backbone, texts)

    def save_pretrained(self, save_directory: str | Path, **details: Any) -> str | None:
        """The mixin's own, after a look at the parts, since it makes the folder and drops its config.json
        first. Raises NotFinite.
        """
        hub.need_sound("nothing is saved: the part", self.trained())
        uploaded: str | None = super().save_pretrained(save_directory, **details)
        return uploaded

    def _save_pretrained(self, save_directory: Path) -> None:
        """What `save_pretrained` of the mixin calls: it then writes the model card, and uploads if asked
        to.
        """
        hub.write_folder(save_directory, *self._checkpoint())
        (save_directory / hub.CARD).unlink(missing_ok=True)  # the mixin would keep another model's

    def generate_model_card(self, *_: Any, **details: Any) -> ModelCard:
        """The README.md of `save_pretrained`; details: its `model_card_kwargs`, see `hub.card`."""
        return ModelCard(hub.card(self._checkpoint()[1], **details))

    def _checkpoint(self) -> tuple[bytes, dict[str, Any]]:
        """The safetensors file, and the settings in its metadata."""
        hub.need_sound("nothing is saved: the part", self.trained())
        tensors = {name: value.detach().cpu() for name, value in self.trained().items()}
        about = {
            "model": asdict(self.config),
            "class_texts": list(self.class_texts),
            "backbone": {
                "name": self.backbone.name,
                "pretrained": self.backbone.pretrained,
                "weights": self.backbone.weights_hash,
            },
            "tensors": hub.tensors_sum({name: value.numpy() for name, value in tensors.items()}),
        }
        # One entry: the format keeps no order among several, and equal models are to be equal files.
        return save(tensors, {"flowclip": to_json("the settings", about, sort_keys=True)}), about


def _parts(
    config: ModelConfig, width: int, initial: Tensor, classes: int, seed: int = 0
) -> dict[str, nn.Module]:
    """The parts that are trained, by name. initial: prompt vectors (H,W).

    Raises InputError for heads that do not divide the width.
    """
    if width % config.heads:
        raise InputError(f"heads={config.heads} must divide the width {width} of the backbone's features")
    parts: dict[str, nn.Module] = {"motion_modeling": MotionModelingBlock(width, config, seed)}
    if config.map:
        hidden = (
            config.adapter_width if config.mmb else 0
        )  # without a motion stream there is nothing to adapt
        with seeded(seed, 3):
            parts["prompts"] = MotionAwarePrompts(initial, width, hidden, config.adapter_start)
    if config.head == "linear":
        parts["head"] = head = nn.Linear(width, classes)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    if config.mcb:
        with seeded(seed, 4):
            parts["communication"] = CommunicationBlock(width, config.heads)
    return parts


def _saved(name: str) -> str:
    """A parameter's name in a saved file, where the two streams stand by themselves."""
    return name.removeprefix("motion_modeling.")
