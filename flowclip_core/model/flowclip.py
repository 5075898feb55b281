"""The whole method, Figure 1 as a forward pass.

Letters: B videos, T frames, L differences, K classes, H prompt vectors, D shared width, W text width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

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
from flowclip_core.model.hub import need_sound, read_parts
from flowclip_core.model.motion import MotionModelingBlock
from flowclip_core.model.prompt_tree import PromptTree
from flowclip_core.model.prompts import MotionAwarePrompts, prompt_vectors


class FlowCLIP(nn.Module, ModelHubMixin):
    """A frozen CLIP with the parts that `config` switches on; `forward` returns every intermediate by
    name."""

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
        tree: pass the tree of another model with the same backbone, classes and prompt length to build it
        only once.
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

        prompt_motion: (B,D) motion of other videos that the prompts are to follow in the place of their own,
        a control.
        """
        out = self.encode_video(frames, prompt_motion)
        texts = self.static_texts if self.prompts is None else self.tree(out["prompts"])
        return self.score_classes(out, texts)

    def encode_video(self, frames: Tensor, prompt_motion: Tensor | None = None) -> dict[str, Tensor]:
        """The video's side, up to the prompts that its motion, or another's, steers; arguments as of
        `forward`."""
        if (
            frames.ndim != 3
            or frames.shape[1] != self.config.frames
            or frames.shape[2] != self.backbone.width
        ):
            raise InputError(
                f"frame features have shape {tuple(frames.shape)}; this model takes"
                f" (B, T={self.config.frames}, D={self.backbone.width})"
            )
        out = self.motion_modeling(frames, self.config.step)  # Eq. 4 to 6
        if self.prompts is not None:
            steer = out.get("motion") if prompt_motion is None else prompt_motion
            out["prompts"] = self.prompts(steer)  # (B,H,W), or (1,H,W) for all; Eq. 7
        return out

    def score_classes(self, out: dict[str, Tensor], texts: Tensor) -> dict[str, Tensor]:
        """What `encode_video` gave, with its texts (B,K,D), or (1,K,D) for all, and how they match."""
        config = self.config
        out = out | {"texts": texts.expand(len(out["video"]), -1, -1)}  # (B,K,D)
        out["video_out"], out["texts_out"] = out["video"], out["texts"]
        if self.communication is not None:
            seen = out["video"][:, None]  # (B,1,D)
            if config.video_tokens == "sequence":  # (B,T+L,D)
                streams = [out.get("spatial_tokens", out["frames"]), out.get("motion_tokens")]
                seen = torch.cat([tokens for tokens in streams if tokens is not None], 1)
            out["texts_out"], out["video_out"] = self.communication(out["texts"], out["video"], seen)  # Eq. 2
        if self.head is not None:
            out["logits"] = self.head(F.normalize(out["video_out"], dim=-1) / config.tau)
        else:
            cosine = F.cosine_similarity(out["texts_out"], out["video_out"][:, None], dim=-1)  # (B,K)
            out["logits"] = cosine / config.tau  # Eq. 3
        return out

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by name; the towers are not among them."""
        return {_saved(name): value for name, value in self.named_parameters() if value.requires_grad}

    def save(self, path: Path) -> Path:
        """Write the trained parts, the settings and the class texts into one safetensors file, atomically.

        Raises NotFinite for a part that is no sound number, as `load` would.
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

        path: a file that `save` wrote, or a folder that `save_pretrained` wrote.
        Raises InputError for another kind of file, another backbone, parts that do not fit or are no sound
        numbers, or a linear head that is to name other classes.
        """
        about = hub.read_settings(path)
        made_with, own = about["backbone"], about["class_texts"]
        if made_with["weights"] != backbone.weights_hash:
            raise InputError(
                f"{path}: made with backbone {made_with['name']} (weights {made_with['weights'][:12]}), not with"
                f" {backbone.name} ({backbone.weights_hash[:12]}); choose it with --backbone and --pretrained"
            )
        texts, config = class_texts or own, ModelConfig(**about["model"])
        if config.head == "linear" and list(texts) != own:
            raise InputError(f"{path}: its linear head knows its own {len(own)} classes alone")
        # Compared before anything of the sizes that a file claims is built.
        initial = prompt_vectors(backbone, config.prompt)
        with torch.device("meta"):
            new = nn.ModuleDict(_parts(config, backbone.width, initial.to("meta"), len(own)))
        parts = read_parts(path, {_saved(name): value for name, value in new.named_parameters()})
        model = cls(config, backbone, texts, tree=tree)
        trained = model.trained()
        with torch.no_grad():
            for name, value in trained.items():
                value.copy_(parts[name])
        return model.eval()

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: None = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict | None = None,
        **push_to_hub_kwargs,
    ) -> str | None:
        """Write model.safetensors (as `save`), config.json and README.md, each whole; older ones are
        replaced.

        In the place of the mixin's own, which first removes config.json and keeps the model card of another
        model.
        model_card_kwargs: as of `hub.card`, for how the parts were trained and what they scored.
        push_to_hub: also upload them, to `repo_id` or the folder's name; returns what the mixin's
        `push_to_hub` does.
        Raises InputError for a `config` (the settings are the model's own) or where a file has the folder's name.
        """
        if config is not None:
            raise InputError("config: leave it out; the settings that are saved are the model's own")
        hub.write_folder(Path(save_directory), *self._checkpoint(), **(model_card_kwargs or {}))
        if not push_to_hub:
            return None
        repo_id = repo_id or Path(save_directory).name
        return self.push_to_hub(repo_id, model_card_kwargs=model_card_kwargs, **push_to_hub_kwargs)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        backbone: Backbone | None = None,
        class_texts: Sequence[str] | None = None,
        transfer: bool = False,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> FlowCLIP:
        """The model that `save_pretrained` wrote into a folder, or `push_to_hub` into the repository
        «user/name».

        backbone: the one it was trained on; left out, it is loaded by the name and weights it was saved with.
        class_texts: its own classes; with `transfer`, others to name (zero-shot transfer, section 4.4).
        The rest is about the download. Raises InputError as `load` does, for class names that are not its
        own, doubled or empty, for a folder without the files or with ones that disagree, and for a repository
        that cannot be had.
        """
        path = hub.find(
            pretrained_model_name_or_path,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            force_download=force_download,
            local_files_only=local_files_only,
        )
        about = hub.read_settings(path)
        texts = hub.class_names(path, about, class_texts, transfer)
        if backbone is None:
            made_with = about["backbone"]
            try:
                backbone = load_backbone(made_with["name"], made_with["pretrained"])
            except InputError as error:
                raise InputError(
                    f"{path}: its backbone is not here, give one as backbone=; {error}"
                ) from error
        return cls.load(path, backbone, texts)

    def generate_model_card(self, **told) -> ModelCard:
        """The README.md of `save_pretrained`."""
        return ModelCard(hub.card(self._checkpoint()[1], **told))

    def _checkpoint(self) -> tuple[bytes, dict]:
        """The safetensors file, and the settings in its metadata."""
        about = {
            "model": asdict(self.config),
            "class_texts": list(self.class_texts),
            "backbone": {
                "name": self.backbone.name,
                "pretrained": self.backbone.pretrained,
                "weights": self.backbone.weights_hash,
            },
            "tensors": hub.tensors_sum(
                {name: value.detach().cpu().numpy() for name, value in self.trained().items()}
            ),
        }
        need_sound("nothing is saved: the part", self.trained())
        # One entry: the format keeps no order among several, and equal models are to be equal files.
        metadata = {"flowclip": to_json("the settings", about, sort_keys=True)}
        return save({name: value.detach().cpu() for name, value in self.trained().items()}, metadata), about


def _parts(
    config: ModelConfig, width: int, initial: Tensor, classes: int, seed: int = 0
) -> dict[str, nn.Module]:
    """The parts that are trained, by name. initial: prompt vectors (H,W).

    Raises InputError for heads that do not divide the width.
    """
    if width % config.heads:
        raise InputError(f"heads={config.heads} must divide the width {width} of the backbone's features")
    motion = config.mmb and config.adapter_width > 0
    found: dict[str, nn.Module] = {
        "motion_modeling": MotionModelingBlock(width, config, lambda part, build: _seeded(seed, part, build))
    }
    if config.map:
        found["prompts"] = _seeded(
            seed, 3, lambda: MotionAwarePrompts(initial, width, config.adapter_width, motion)
        )
    if config.head == "linear":
        found["head"] = nn.Linear(width, classes)
        nn.init.zeros_(found["head"].weight)
        nn.init.zeros_(found["head"].bias)
    if config.mcb:
        found["communication"] = _seeded(seed, 4, lambda: CommunicationBlock(width, config.heads))
    return found


def _saved(name: str) -> str:
    """A parameter's name in a saved file, where the two streams stand by themselves."""
    return name.removeprefix("motion_modeling.")


def _seeded(seed: int, part: int, build: Callable[[], nn.Module]) -> nn.Module:
    """Build a part from its own random stream, leaving the caller's untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed * 1000 + part)
        return build()
