"""What the method costs (Table 3), counted from its modules: parameters and multiply-adds, exact or the
paper's way.

Modules run on torch's meta device, which keeps shapes and no values: counting takes moments and needs no
weights. The unit is the multiply-add; a floating-point count is twice as large.

Letters: T frames, K texts, L differences, H prompt vectors, W width of the text tower, D shared width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import open_clip
import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from flowclip_core.errors import InputError
from flowclip_core.model.backbone import Backbone
from flowclip_core.model.flowclip import FlowCLIP
from flowclip_core.model.motion import differences
from flowclip_core.model.prompt_tree import Layout

PARTS = (
    "image tower",
    "text tower",
    "spatial stream",
    "motion stream",
    "motion-aware prompts",
    "communication block",
)


def weightless(name: str = "ViT-B-16-quickgelu") -> Backbone:
    """The open_clip model `name` on the meta device: shapes only, to be counted and not run."""
    with torch.device("meta"):
        return Backbone(open_clip.model.CLIP(**open_clip.get_model_config(name)), name, None)


def parameters(module: nn.Module | None, trained: bool = False) -> int:
    """Numbers that a module holds, each once; `trained`: only those that training changes."""
    return (
        sum(value.numel() for value in module.parameters() if value.requires_grad or not trained)
        if module
        else 0
    )


def multiply_adds(run: Callable[[], object]) -> int:
    """Multiply-adds of every matrix product and convolution inside `run()`, Q K^T and A V of attention
    included.

    A masked product counts as it is computed, that is in full. Sums, activations, norms and the cosine are
    left out: they are no matrix products, and small.
    """
    with _plain_attention(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2


def part_multiply_adds(model: FlowCLIP, known: Mapping[str, int] | None = None) -> dict[str, int]:
    """Multiply-adds by part (`PARTS`) for one video of T frames and K texts, every text in full: 77 tokens,
    no sharing.

    Parts that are off cost 0. With motion-aware prompts this is what each video costs when the prompt tree is
    not used; without them the texts are the same for all videos and need encoding only once.
    known: what this gave for another model with the same backbone, T and K; its towers are not counted again.
    """
    tower, config = model.backbone, model.config
    like: dict[str, Any] = {"device": tower.mean.device, "dtype": tower.mean.dtype}
    pixels = torch.zeros(
        config.frames, 3, tower.image_size, tower.image_size, dtype=torch.uint8, device=like["device"]
    )
    texts = torch.zeros(len(model.class_texts), tower.context, dtype=torch.long, device=like["device"])
    frames = torch.zeros(1, config.frames, tower.width, **like)
    changes = differences(frames, config.step)
    classes = torch.zeros(1, len(texts), tower.width, **like)
    video = frames[:, 0]
    seen = video[:, None] if config.video_tokens == "pooled" else torch.cat([frames, changes], 1)
    runs = (
        lambda: tower.encode_frames(pixels),
        lambda: tower.clip.encode_text(texts),
        model.motion_modeling.spatial_stream and (lambda: model.motion_modeling.spatial_stream(frames)),
        model.motion_modeling.motion_stream and (lambda: model.motion_modeling.motion_stream(changes)),
        model.prompts and (lambda: model.prompts(video if config.mmb else None)),
        model.communication and (lambda: model.communication(classes, video, seen)),
    )
    towers = {part: count for part, count in (known or {}).items() if part in PARTS[:2]}
    todo = {part: run for part, run in zip(PARTS, runs, strict=True) if part not in towers}
    return towers | {part: multiply_adds(run) if run else 0 for part, run in todo.items()}


def part_parameters(model: FlowCLIP) -> dict[str, int]:
    """Parameters by part (`PARTS`); CLIP's own temperature counts to its text tower."""
    clip = model.backbone.clip
    parts = (
        model.motion_modeling.spatial_stream,
        model.motion_modeling.motion_stream,
        model.prompts,
        model.communication,
    )
    image = parameters(clip.visual)
    return dict(zip(PARTS, (image, parameters(clip) - image, *map(parameters, parts)), strict=True))


def tree_multiply_adds(layout: Layout, prefix: int, width: int, heads_out: int, blocks: int) -> int:
    """Multiply-adds of one video's K texts through the prompt tree, padding included, from its layout alone.

    prefix: H+1. width: W. heads_out: D, the width a class is projected to. blocks: of the text tower.
    A block costs 3 W^2 a node for queries, keys and values, 2 W for each pair of a node and what it attends
    to, and 9 W^2 for output projection and feed-forward net. Two savings: class nodes enter the first block
    equal for all videos, so their 3 W^2 there are spent once and not per video; in the last block only leaves
    ask, and go on.
    """
    nodes, slots, groups, classes = len(layout.tokens), layout.slots, layout.groups, len(layout.leaves)
    # Groups run together, so in the last block each asks as often as the one with the most leaves.
    asking = groups * max(Counter(leaf // slots for leaf in layout.leaves).values())
    square, seen, root = width**2, 2 * width * (prefix + slots), 2 * width * prefix**2
    found = classes * width * heads_out
    for number in range(blocks):
        entered, last = (prefix if number == 0 else prefix + nodes), number == blocks - 1
        found += 2 * square * entered  # keys and values
        found += (classes if number else 0) * square if last else square * entered  # queries
        found += asking * seen if last else nodes * seen + root
        found += 9 * square * (classes if last else prefix + nodes)
    return found


# --- the paper's own counting -------------------------------------------------------------------------------

# thop 0.1.1 knows a module by its exact type and ignores all others, subclasses among them. Of the types it
# knows these are the ones that cost something here. Missing: nn.MultiheadAttention with its projections (one
# a raw parameter, one of a subclass of Linear), CLIP's LayerNorm (a subclass), prompt vectors, tables, final
# projections (raw parameters).
_RULES: dict[type, Callable[[Any, Tensor, Tensor], int]] = {
    nn.Conv2d: lambda conv, _, out: out.numel() * conv.weight[0].numel(),
    nn.Linear: lambda linear, _, out: out.numel() * linear.in_features,
    nn.LayerNorm: lambda _, tokens, __: 4 * tokens.numel(),
}


class AsCounted(nn.Module):
    """A model in the shape that fits Table 3: CLIP, its image tower once more under a second name, and the
    new parts.

    streams: "clip" makes the two streams of CLIP's own transformer block, which fits the printed parameters;
    "torch" takes the model's own, whose norms the rule counts. Raises InputError for anything else.
    """

    def __init__(self, model: FlowCLIP, streams: str = "clip") -> None:
        super().__init__()
        if streams not in ("clip", "torch"):
            raise InputError(f"streams={streams!r} is not one of clip, torch")
        self.clip, self.step = model.backbone.clip, model.config.step
        self.image_encoder = self.clip.visual
        self.spatial_stream, self.motion_stream = (
            model.motion_modeling.spatial_stream,
            model.motion_modeling.motion_stream,
        )
        self.prompts, self.communication = model.prompts, model.communication
        if streams == "clip":
            for name in ("spatial_stream", "motion_stream"):
                if getattr(self, name) is not None:
                    with torch.device(model.backbone.mean.device):
                        setattr(self, name, ResidualAttentionBlock(model.backbone.width, model.config.heads))

    def forward(self, pixels: Tensor, tokens: Tensor) -> None:
        """Run every part once. pixels: (T,3,size,size); tokens: (K,77) token ids."""
        frames, texts = self.image_encoder(pixels)[None], self.clip.encode_text(tokens)[None]
        video, motion = frames.mean(1), None
        if self.spatial_stream is not None:
            video = self.spatial_stream(frames).mean(1)
        if self.motion_stream is not None:
            motion = self.motion_stream(differences(frames, self.step)).mean(1)
        if self.prompts is not None:
            self.prompts(motion)
        if self.communication is not None:
            self.communication(texts, video, video[:, None])


def papers_rule(module: nn.Module, *inputs: Tensor) -> tuple[int, int]:
    """Parameters and multiply-adds of `module(*inputs)` by the rule that gives the paper's Table 3, that of
    thop 0.1.1.

    The tree of modules is walked twice. On the way to the run every known module that is met gets a hook; on
    the way back the counts of all that are met are added. A module that two names lead to is met twice, so
    its parameters count twice and its multiply-adds four times.
    """
    cost: Counter[nn.Module] = Counter()
    hooks = []

    def hook(met: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        cost[met] += _RULES[type(met)](met, arguments[0], output)

    def prepare(met: nn.Module) -> None:
        if type(met) in _RULES:
            hooks.append(met.register_forward_hook(hook))
        for child in met.children():
            prepare(child)

    def add(met: nn.Module) -> tuple[int, int]:
        if type(met) in _RULES:
            return (parameters(met), cost[met]) if met in cost else (0, 0)
        below = [add(child) for child in met.children()]
        return sum(size for size, _ in below), sum(work for _, work in below)

    prepare(module)
    try:
        with _plain_attention(), torch.no_grad():
            module(*inputs)
    finally:
        for handle in hooks:
            handle.remove()
    return add(module)


def counted_by_the_papers_rule(model: FlowCLIP, streams: str = "clip") -> tuple[int, int]:
    """`papers_rule` of a model in the shape of `AsCounted`, for its T frames and K texts of 77 tokens."""
    tower, device = model.backbone, model.backbone.mean.device
    pixels = torch.zeros(model.config.frames, 3, tower.image_size, tower.image_size, device=device)
    tokens = torch.zeros(len(model.class_texts), tower.context, dtype=torch.long, device=device)
    return papers_rule(AsCounted(model, streams).eval(), pixels, tokens)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Keep torch from its fused blocks, inside which neither counter sees anything."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
