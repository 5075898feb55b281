"""The prompt tree: all K prompts of a video in one pass of the text tower.

Motion-aware prompts differ from video to video, so done plainly every video costs K passes over 77 tokens (CoCoOp's
way). But the text tower is causal and the K prompts of one video, [SOS] P_1..P_H CLASS . [EOS] (Eq. 7), share their
beginning with each other and parts of CLASS among classes: they are the root paths of a tree. A token's hidden state
depends on its ancestors alone, so each tree node is computed once, at position = depth, attending to «ancestors and
self»; a class is read at its leaf, [EOS]. Values and gradients are those of the plain way.

Layout of one video's nodes: the shared prefix ([SOS] and the H prompt vectors), then the class tokens in G groups of n
slots. A group holds whole subtrees of the prefix, so its nodes attend to the prefix and to their own group only;
attention costs n per node instead of all nodes, which matters for hundreds of classes.

Letters: B videos, H prompt vectors, K classes, G groups, n slots a group, W text width, D shared width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowclip_core.errors import InputError
from flowclip_core.model.backbone import Backbone


@dataclass(frozen=True)
class Layout:
    """Where each node of the tree sits. Slots are numbered g*n + i over all groups; padding slots have token -1."""

    tokens: list[int]  # (G*n,) token id of each slot
    parents: list[int]  # (G*n,) slot of the parent, or -1 where the parent is the prefix
    depths: list[int]  # (G*n,) distance from the prefix's end: 1 for a first class token
    leaves: list[int]  # (K,) slot of each class's [EOS]
    slots: int  # n

    @property
    def groups(self) -> int:
        return len(self.tokens) // self.slots

    @property
    def nodes(self) -> int:
        """Class nodes of the tree, padding left out."""
        return sum(token >= 0 for token in self.tokens)


def lay_out(sequences: Sequence[Sequence[int]], prefix: int, width: int) -> Layout:
    """Merge the class token sequences into a tree and pack its subtrees into groups of equal size.

    sequences: K lists of token ids, the part after the prompt vectors, each ending in [EOS].
    prefix: H+1. width: W, to weigh padding (12 W per slot) against attention (2 (prefix+n) per slot).
    """
    tokens: list[int] = []
    parents: list[int] = []
    child: dict[tuple[int, int], int] = {}
    leaves = []
    for sequence in sequences:
        node = -1
        for token in sequence:
            if (node, token) not in child:
                child[node, token] = len(tokens)
                tokens.append(token)
                parents.append(node)
            node = child[node, token]
        leaves.append(node)
    if len(set(leaves)) < len(leaves):
        raise InputError("two classes have the same text; every class needs its own")

    tops, depths = [], []
    for node, parent in enumerate(parents):
        tops.append(node if parent < 0 else tops[parent])
        depths.append(1 if parent < 0 else depths[parent] + 1)
    subtrees: dict[int, list[int]] = {}
    for node, top in enumerate(tops):
        subtrees.setdefault(top, []).append(node)
    ordered = sorted(subtrees.values(), key=len, reverse=True)

    def pack(slots: int) -> list[list[int]]:
        groups: list[list[int]] = []
        for subtree in ordered:  # first fit, largest first
            home = next((group for group in groups if len(group) + len(subtree) <= slots), None)
            if home is None:
                groups.append(home := [])
            home.extend(subtree)
        return groups

    def cost(slots: int) -> int:
        return len(pack(slots)) * slots * (12 * width + 2 * (prefix + slots))

    smallest = len(ordered[0])
    slots = min(range(smallest, max(smallest + 1, min(len(tokens), 256) + 1)), key=cost)
    where = {node: g * slots + i for g, group in enumerate(pack(slots)) for i, node in enumerate(group)}
    size = len(pack(slots)) * slots
    placed_tokens, placed_parents, placed_depths = [-1] * size, [-1] * size, [1] * size
    for node, slot in where.items():
        placed_tokens[slot], placed_depths[slot] = tokens[node], depths[node]
        placed_parents[slot] = where[parents[node]] if parents[node] >= 0 else -1
    return Layout(placed_tokens, placed_parents, placed_depths, [where[leaf] for leaf in leaves], slots)


class PromptTree(nn.Module):
    """Encoder of all class texts behind any prompt vectors: (B,H,W) -> (B,K,D).

    Raises InputError when a text is empty, doubled, or longer than the text tower's context.
    """

    def __init__(self, backbone: Backbone, class_texts: Sequence[str], prompt_length: int) -> None:
        super().__init__()
        start, end = backbone.borders
        sequences = [[*backbone.tokenize(f"{text}."), end] for text in class_texts]
        for text, sequence in zip(class_texts, sequences, strict=True):
            if not text.strip():
                raise InputError("a class name is empty")
            if 1 + prompt_length + len(sequence) > backbone.context:
                raise InputError(
                    f"class {text!r}: {1 + prompt_length + len(sequence)} tokens with its prompt, the text tower takes"
                    f" {backbone.context}; shorten the name"
                )
        self.prefix = prompt_length + 1
        self.layout = layout = lay_out(sequences, self.prefix, backbone.text_width)
        # The towers are frozen and shared by many models, so the tree refers to them without owning their parameters.
        self._clip = (backbone.clip,)
        device = backbone.mean.device
        groups, n, prefix = layout.groups, layout.slots, self.prefix

        positions = backbone.clip.positional_embedding
        tokens = torch.tensor(layout.tokens, device=device).clamp_min(0)
        depths = torch.tensor(layout.depths, device=device)
        embedded = backbone.embed_tokens(tokens) + positions[prefix - 1 + depths]
        sos = backbone.embed_tokens(torch.tensor([start], device=device)) + positions[:1]
        sees = torch.zeros(groups * n, groups * n, dtype=torch.bool)
        for slot, parent in enumerate(layout.parents):  # parents come before children inside a group
            if parent >= 0:
                sees[slot] = sees[parent]
            sees[slot, slot] = True
        own = torch.stack([sees[g * n : (g + 1) * n, g * n : (g + 1) * n] for g in range(groups)])
        own = torch.cat([torch.ones(groups, n, prefix, dtype=torch.bool), own], 2).to(device)

        # In the last layer only the leaves are read: (G,m) slots, groups with fewer leaves repeat their first slot.
        by_group: list[list[int]] = [[] for _ in range(groups)]
        for leaf in layout.leaves:
            by_group[leaf // n].append(leaf % n)
        most = max(map(len, by_group))
        rows = torch.tensor([group + [0] * (most - len(group)) for group in by_group], device=device)
        column = {g * n + slot: g * most + i for g, group in enumerate(by_group) for i, slot in enumerate(group)}
        read = torch.tensor([column[leaf] for leaf in layout.leaves], device=device)

        first = backbone.clip.transformer.resblocks[0]
        with torch.no_grad():  # class tokens enter layer 0 the same for every video: project them once
            projected = _project(first, embedded)
        for name, value in {
            "embedded": embedded,
            "projected": projected,
            "sos": sos,
            "positions": positions[1:prefix].detach(),
            "mask": own,
            "rows": rows,
            "read": read,
        }.items():
            self.register_buffer(name, value.detach(), persistent=False)

    @property
    def tokens_per_video(self) -> int:
        """Nodes computed for one video, padding included; the plain way computes K * 77."""
        return self.prefix + len(self.layout.tokens)

    def forward(self, vectors: Tensor) -> Tensor:
        """Text features (B,K,D) of the prompts [SOS] P_1..P_H CLASS . [EOS], before normalisation.

        vectors: (B,H,W) prompt vectors, without positions.
        """
        clip = self._clip[0]
        blocks, batch, prefix = clip.transformer.resblocks, len(vectors), self.prefix
        root = torch.cat([self.sos.expand(batch, 1, -1), vectors + self.positions], 1)
        hidden = torch.cat([root, self.embedded.expand(batch, -1, -1)], 1)
        qkv = torch.cat([_project(blocks[0], root), self.projected.expand(batch, -1, -1)], 1)
        for block, following in zip(blocks, [*blocks[1:], None], strict=True):
            last = following is None
            heads = block.attn.num_heads
            query, key, value = (part.unflatten(-1, (heads, -1)) for part in qkv.chunk(3, -1))
            mixed = self._attend_groups(query[:, prefix:], key, value, leaves_only=last)
            if last:
                hidden = self._rows(hidden[:, prefix:])
            else:
                start = (part[:, :prefix].transpose(1, 2) for part in (query, key, value))
                rooted = F.scaled_dot_product_attention(*start, is_causal=True).transpose(1, 2)
                mixed = torch.cat([rooted, mixed], 1)
            hidden = hidden + block.ls_1(block.attn.out_proj(mixed.flatten(2)))
            hidden = hidden + block.ls_2(block.mlp(block.ln_2(hidden)))
            if not last:
                qkv = _project(following, hidden)
        return clip.ln_final(hidden[:, self.read]) @ clip.text_projection

    def _attend_groups(self, query: Tensor, key: Tensor, value: Tensor, leaves_only: bool) -> Tensor:
        """Attention of the class slots: query (B,G*n,heads,d), key and value (B,prefix+G*n,heads,d)."""
        batch, groups, n = len(query), self.layout.groups, self.layout.slots
        query, mask = query.unflatten(1, (groups, n)), self.mask
        if leaves_only:
            pick = self.rows[None, :, :, None, None].expand(batch, -1, -1, *query.shape[3:])
            query = query.gather(2, pick)
            mask = mask.gather(1, self.rows[:, :, None].expand(-1, -1, mask.shape[2]))

        def with_prefix(part: Tensor) -> Tensor:  # (B,G,heads,prefix+n,d)
            root = part[:, None, : self.prefix].expand(-1, groups, -1, -1, -1)
            own = part[:, self.prefix :].unflatten(1, (groups, n))
            return torch.cat([root, own], 2).transpose(2, 3).flatten(0, 1)

        mixed = F.scaled_dot_product_attention(
            query.transpose(2, 3).flatten(0, 1),
            with_prefix(key),
            with_prefix(value),
            attn_mask=mask[None, :, None].expand(batch, -1, -1, -1, -1).flatten(0, 1),
        )
        return mixed.transpose(1, 2).unflatten(0, (batch, groups)).flatten(1, 2)

    def _rows(self, hidden: Tensor) -> Tensor:
        """The leaf slots of each group: (B,G*n,W) -> (B,G*m,W)."""
        grouped = hidden.unflatten(1, (self.layout.groups, self.layout.slots))
        pick = self.rows[None, :, :, None].expand(len(hidden), -1, -1, hidden.shape[-1])
        return grouped.gather(2, pick).flatten(1, 2)


def _project(block: nn.Module, hidden: Tensor) -> Tensor:
    """Queries, keys and values of one text block, side by side: (..., W) -> (..., 3W)."""
    return F.linear(block.ln_1(hidden), block.attn.in_proj_weight, block.attn.in_proj_bias)
