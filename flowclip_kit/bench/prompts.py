"""Motion-aware prompts four ways: every video has texts of its own, so what does the text tower cost a video?

    ./reproduce.sh bench prompts [--record]

The ways, all exact: 77 tokens for every video and class, as CoCoOp does it; the same cut at the longest
prompt, which the causal mask allows; the prefix [SOS] P_1..P_H once a video, then each class by itself; the
prompt tree. Text tower of ViT-B/16 with seeded random weights (time does not depend on what weights say), H =
5, class lists of the three data sets. Each round takes all ways in turn; printed are seconds a video, and the
median, least and largest ratio to the tree. Before that, values and gradients of each way are compared with
the first one's, as relative lengths.

Useful GFLOP/s count what the tree needs: its nodes without padding, each attending to its ancestors and
itself; only leaves behind the last attention; in layer 0 no projection of the class tokens, which do not
depend on the video; and backward no gradient of weights, which are frozen. The peak is what torch's matrix
product keeps up on all cores, right after a pass of the tree and for as long; the share is the median over
twice `--rounds` such pairs.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from flowclip_core.config import PROMPTS
from flowclip_core.errors import InputError
from flowclip_core.model.backbone import Backbone
from flowclip_core.model.prompt_tree import PromptTree
from flowclip_core.model.prompts import prompt_vectors
from flowclip_core.training import loop
from flowclip_kit.bench import _common as common
from flowclip_kit.datasets.class_names import CLASSES
from flowclip_kit.demo.backbone import load_backbone
from flowclip_kit.distributed.process_pool import default_jobs
from flowclip_kit.experiments.devices import gpu_name, pick_device

H = 5
SMALLEST = 51  # classes; longer lists have fewer rounds in proportion, but two
TEXTS_AT_ONCE = 64  # of the ways that encode every class by itself: more would not be faster, and not fit
NAIVE, CUT, PREFIX, TREE = "77 tokens", "cut prompts", "shared prefix", "prompt tree"
Way = Callable[[Tensor], Tensor]  # (B,H,W) prompt vectors -> (B,K,D) texts


def one_by_one(tower: Backbone, names: list[str], cut: bool) -> list[Way]:
    """The plain way, some classes at a time: what encodes each part, all videos."""
    start, end = tower.borders
    sequences = [[*tower.tokenize(f"{name}."), end] for name in names]
    length = 1 + H + max(map(len, sequences)) if cut else tower.context
    ways: list[Way] = []
    for at in range(0, len(names), TEXTS_AT_ONCE):
        part = sequences[at : at + TEXTS_AT_ONCE]
        tokens = torch.zeros(len(part), length - 1 - H, dtype=torch.long, device=tower.device)
        for row, sequence in enumerate(part):
            tokens[row, : len(sequence)] = torch.tensor(sequence)
        tail, sos = tower.embed_tokens(tokens), tower.embed_tokens(torch.tensor([start], device=tower.device))
        ends = torch.tensor([H + len(sequence) for sequence in part], device=tower.device)

        def way(vectors: Tensor, tail=tail, sos=sos, ends=ends) -> Tensor:
            batch, classes = len(vectors), len(tail)
            head = torch.cat([sos.expand(batch, 1, -1), vectors], 1)[:, None].expand(-1, classes, -1, -1)
            whole = torch.cat([head, tail.expand(batch, -1, -1, -1)], 2).flatten(0, 1)
            return tower.encode_prompts(whole, ends.repeat(batch)).unflatten(0, (batch, classes))

        ways.append(way)
    return ways


def with_prefix_once(tower: Backbone, names: list[str]) -> list[Way]:
    """[SOS] P_1..P_H once a video, then every class by itself behind it, as with a key-value cache."""
    start, end = tower.borders
    sequences = [[*tower.tokenize(f"{name}."), end] for name in names]
    longest, prefix, clip = max(map(len, sequences)), 1 + H, tower.clip
    tokens = torch.zeros(len(names), longest, dtype=torch.long, device=tower.device)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = torch.tensor(sequence)
    tail = tower.embed_tokens(tokens) + clip.positional_embedding[prefix : prefix + longest]
    sos = tower.embed_tokens(torch.tensor([start], device=tower.device))
    ends = torch.tensor([len(sequence) - 1 for sequence in sequences], device=tower.device)
    mask = torch.ones(longest, prefix + longest, dtype=torch.bool, device=tower.device).tril(prefix)

    def way(vectors: Tensor) -> Tensor:
        batch, classes = len(vectors), len(names)
        root = torch.cat([sos.expand(batch, 1, -1), vectors], 1) + clip.positional_embedding[:prefix]
        own = tail.expand(batch, -1, -1, -1)
        for block in clip.transformer.resblocks:
            heads = block.attn.num_heads

            def parts(hidden: Tensor, block=block, heads=heads) -> list[Tensor]:
                projected = F.linear(block.ln_1(hidden), block.attn.in_proj_weight, block.attn.in_proj_bias)
                return [part.unflatten(-1, (heads, -1)).transpose(-2, -3) for part in projected.chunk(3, -1)]

            query, key, value = parts(root)
            rooted = F.scaled_dot_product_attention(query, key, value, is_causal=True)
            shared = [one[:, None].expand(-1, classes, -1, -1, -1) for one in (key, value)]
            query, *mine = parts(own)
            key, value = (torch.cat([a, b], -2).flatten(0, 1) for a, b in zip(shared, mine, strict=True))
            mixed = F.scaled_dot_product_attention(query.flatten(0, 1), key, value, attn_mask=mask)
            mixed = mixed.unflatten(0, (batch, classes))

            def rest(hidden: Tensor, mixed: Tensor, block=block) -> Tensor:
                hidden = hidden + block.ls_1(block.attn.out_proj(mixed.transpose(-2, -3).flatten(-2)))
                return hidden + block.ls_2(block.mlp(block.ln_2(hidden)))

            root, own = rest(root, rooted), rest(own, mixed)
        picked = own[:, torch.arange(classes, device=tower.device), ends]
        return clip.ln_final(picked) @ clip.text_projection

    return [way]


def ways_of(tower: Backbone, names: list[str]) -> dict[str, list[Way]]:
    """Each way as parts of the classes that are encoded after each other."""
    return {
        NAIVE: one_by_one(tower, names, cut=False),
        CUT: one_by_one(tower, names, cut=True),
        PREFIX: with_prefix_once(tower, names),
        TREE: [PromptTree(tower, names, H)],
    }


def forward(parts: list[Way], vectors: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([part(vectors) for part in parts], 1)


@torch.enable_grad()  # a thread begins without
def both(parts: list[Way], vectors: Tensor, weights: Tensor) -> Tensor:
    """The gradient of a weighted sum of all texts with respect to the prompt vectors."""
    total, at = torch.zeros_like(vectors), 0
    for part in parts:
        texts = part(vectors)
        share = weights[:, at : at + texts.shape[1]]
        total += torch.autograd.grad((texts * share).sum(), vectors)[0]
        at += texts.shape[1]
    return total


def useful_gflop(tree: PromptTree, tower: Backbone) -> tuple[float, float]:
    """(forward, backward) GFLOP a video that the tree cannot do without."""
    clip, layout = tower.clip, tree.layout
    width, shared = tower.text_width, tower.width
    layers, prefix, classes = clip.transformer.layers, tree.prefix, len(layout.leaves)
    nodes = prefix + layout.nodes
    paths: dict[int, tuple[int, ...]] = {
        -1: ()
    }  # slot -> tokens from the root's end; copies of a node have one path
    for slot, (token, parent) in enumerate(zip(layout.tokens, layout.parents, strict=True)):
        if token >= 0:
            paths[slot] = (*paths[parent], token)
    seen = [prefix + len(path) for path in {*paths.values()} if path]
    pairs = prefix * (prefix + 1) // 2 + sum(seen)
    last_pairs = sum(prefix + layout.depths[leaf] for leaf in layout.leaves)
    # Products of a vector with a square matrix of the tower's width, in all layers.
    squares = (
        3 * (prefix + (layers - 2) * nodes) + 2 * nodes + classes
    )  # q, k, v; the last layer asks for leaves alone
    squares += 9 * ((layers - 1) * nodes + classes)  # output and the two of the feed-forward part
    linear = 2 * squares * width**2 + 2 * classes * width * shared
    attention = 4 * width * ((layers - 1) * pairs + last_pairs)
    return (linear + attention) / 1e9, (linear + 2 * attention) / 1e9


def apart(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def measure(device: str, lists: list[str], rounds: int, lanes: int) -> str:
    """All lists as a text."""
    tower = load_backbone("ViT-B-16", None, device=device)
    hardware = f"{lanes} CPU cores" if device == "cpu" else gpu_name()
    lines = [f"text tower of ViT-B/16, float32, H = {H}, on {hardware}"]
    with loop.lanes_of(lanes) as run:
        for role in lists:
            lines += ["", *_measure_list(tower, role, rounds, run, lanes)]
    return "\n".join(lines)


def _measure_list(tower: Backbone, role: str, rounds: int, run: Callable, lanes: int) -> list[str]:
    names, device = list(CLASSES[role]), tower.device.type
    ways = ways_of(tower, names)
    (tree,) = ways[TREE]
    assert isinstance(tree, PromptTree)
    draw = torch.Generator().manual_seed(0)
    shifts = 0.1 * torch.randn(tree.at_once, 1, tower.text_width, generator=draw)
    vectors = (prompt_vectors(tower, PROMPTS[H]) + shifts.to(device)).detach()
    weights = torch.randn(tree.at_once, len(names), tower.width, generator=draw).to(device)
    videos = {
        name: tree.at_once if name == TREE else 1 for name in ways
    }  # one fills a core, but for the tree
    texts, gradients = {}, {}
    alone: dict[str, list[float]] = {name: [] for name in ways}
    whole: dict[str, list[float]] = {name: [] for name in ways}
    shares: dict[str, list[tuple[float, float]]] = {"forward": [], "both": []}

    def calls(name: str) -> dict[str, Callable[[int], Tensor]]:
        parts = ways[name]
        return {
            "forward": lambda count: forward(parts, vectors[:count]),
            "both": lambda count: both(parts, vectors[:count].clone().requires_grad_(), weights[:count]),
        }

    def timed(call: Callable, name: str) -> tuple[float, Tensor]:
        began = time.perf_counter()
        (found, *_) = run(call, [videos[name]] * lanes)
        if device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / videos[name] / lanes, found

    list(
        run(lambda _: both(ways[TREE], vectors.clone().requires_grad_(), weights), range(lanes))
    )  # its buffers
    for _ in range(max(min(rounds, 2), rounds * SMALLEST // len(names))):
        for name in ways:
            seconds, texts[name] = timed(calls(name)["forward"], name)
            alone[name].append(seconds)
            seconds, gradients[name] = timed(calls(name)["both"], name)
            whole[name].append(seconds)
    there, back = useful_gflop(tree, tower)
    work = {"forward": there, "both": there + back}
    peak = common.matmul_peak(device, torch.float32, run, lanes)
    for _ in range(2 * rounds):
        for what, call in calls(TREE).items():
            seconds, _ = timed(call, TREE)
            rate = work[what] / seconds
            shares[what].append((rate / peak(seconds * videos[TREE] * lanes), rate))
    apart_by = {
        name: max(apart(texts[name][:1], texts[NAIVE]), apart(gradients[name][:1], gradients[NAIVE]))
        for name in ways
    }
    if not max(apart_by.values()) < 1e-5:
        raise InputError(f"{role}: the ways disagree: {apart_by}")
    longest = max(len(tower.tokenize(f"{name}.")) + 1 for name in names)
    tokens = {
        NAIVE: len(names) * tower.context,
        CUT: len(names) * (1 + H + longest),
        PREFIX: 1 + H + len(names) * longest,
        TREE: tree.tokens_per_video,
    }
    lines = [
        f"{role}, {len(names)} classes, {len(whole[TREE])} rounds; tree: {tree.prefix + tree.layout.nodes}"
        f" nodes in {tree.layout.groups} groups of {tree.layout.slots}, {tree.at_once} videos at once",
        f"{'':14} {'tokens':>7} {'forward s':>10} {'forward + backward s':>21}"
        "   ratio to the tree, both     apart",
    ]
    for name in ways:
        middle, least, most = common.ratio(whole[name], whole[TREE])
        lines.append(
            f"{name:14} {tokens[name]:>7,} {statistics.median(alone[name]):>10.4f}"
            f" {statistics.median(whole[name]):>21.4f}   {middle:>6.2f} ({least:.2f} to {most:.2f})"
            f"   {apart_by[name]:.1e}"
        )
    for what, found in shares.items():
        share, rate = (statistics.median(values) for values in zip(*found, strict=True))
        lines.append(
            f"{'':14} tree, {what:8} {work[what]:7.2f} useful GFLOP a video, {rate:6.1f} GFLOP/s,"
            f" {100 * share:5.1f} % of the peak ({100 * min(found)[0]:.1f} to {100 * max(found)[0]:.1f},"
            f" {len(found)} times)"
        )
    return lines


def main() -> int:
    """The command line; 2 for wrong input."""

    def run(options: common.Options) -> str:
        device = pick_device(options.device)
        return measure(device, options.lists, options.rounds, default_jobs() if device == "cpu" else 1)

    lists = {"nargs": "+", "default": list(CLASSES), "choices": list(CLASSES)}
    rounds = {"type": int, "default": 5}
    return common.run("prompts", run, {"--device": common.DEVICE, "--lists": lists, "--rounds": rounds})


if __name__ == "__main__":
    sys.exit(main())
