"""The prompt tree: all K prompts of a video in one pass of the text tower.

Motion-aware prompts differ from video to video, so done plainly every video costs K passes over 77 tokens
(CoCoOp's way). But the text tower is causal, and the K prompts of one video, [SOS] P_1..P_H CLASS . [EOS]
(Eq. 7), share their beginning with each other and parts of CLASS among classes: they are the root paths of a
tree. A token's hidden state depends on its ancestors alone, so each node is computed once, at position =
depth, attending to its ancestors and itself; a class is read at its leaf, [EOS]. Values and gradients are
those of the plain way.

One video's nodes lie in a row: the root ([SOS] and the H prompt vectors), then the class tokens in G groups
of n slots. A group is closed: it also holds the class tokens above each of its nodes, as copies where need
be, so its nodes attend to the root and to their own group only. Attention then costs n a node instead of all
nodes.

Two more savings are exact: class tokens enter the first block the same for every video, so they are projected
once, and the last block is computed at the leaves alone.

Letters: B videos, H prompt vectors, K classes, G groups, n slots a group, m leaves of a group at most, p =
1+H rows of the root, R = p + G n rows of a video, W text width in heads of width d, D shared width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowclip_core.data.labels import twins
from flowclip_core.errors import InputError
from flowclip_core.model.backbone import Backbone

# Price in attention of each slot that a slot sees, in multiply-adds of the large products: the small products
# run at less than half of their speed, and softmax and copies come on top. Measured on a CPU, width 512.
SEEN = 6
KEPT = 17  # values for each node, block and unit of width at a pass's peak, forward and backward; measured
FEWEST = 16  # rows from which on a product sums a row in one order (MKL, AVX-512, products up to 768 wide)
QUICK = 1.702  # of CLIP's QuickGELU, x sigmoid(1.702 x)


def class_tokens(texts: Sequence[str], tokenizer: Any, prompt_length: int, context: int) -> list[list[int]]:
    """Token ids of each class text behind its prompt: CLASS, full stop, [EOS] (Eq. 7).

    Raises InputError naming the class for a text that is empty, holds what begins or ends a text, or is
    longer with its prompt than the text tower's context, and for two texts of the same tokens, naming both.
    """
    end, borders = tokenizer.eot_token_id, {tokenizer.sot_token_id, tokenizer.eot_token_id}
    sequences: dict[tuple[int, ...], str] = {}
    for text in texts:
        tokens = (*tokenizer.encode(f"{text}."), end)
        if not text.strip():
            raise InputError("a class name is empty")
        if borders & {*tokens[:-1]}:
            raise InputError(f"class {text!r} holds a sign that begins or ends a text for CLIP; rename it")
        if (total := 1 + prompt_length + len(tokens)) > context:
            raise InputError(
                f"class {text!r}: {total} tokens with its prompt of {prompt_length}, the text tower takes"
                f" {context}; shorten the name"
            )
        if tokens in sequences:
            raise InputError(twins(f"{len(tokens)} tokens", sequences[tokens], text))
        sequences[tokens] = text
    return [list(tokens) for tokens in sequences]


def merge(sequences: Sequence[Sequence[int]]) -> tuple[list[int], list[int], list[int]]:
    """The tree of token sequences: token and parent of each node, parents first; each sequence's last node.

    A parent of -1 is what stands before all of them.
    """
    tokens: list[int] = []
    parents: list[int] = []
    leaves: list[int] = []
    child: dict[tuple[int, int], int] = {}
    for sequence in sequences:
        node = -1
        for token in sequence:
            if (node, token) not in child:
                child[node, token] = len(tokens)
                tokens.append(token)
                parents.append(node)
            node = child[node, token]
        leaves.append(node)
    return tokens, parents, leaves


@dataclass(frozen=True)
class Layout:
    """Where each node of the tree sits. Slots are numbered g*n + i over all groups; padding has token -1."""

    tokens: list[int]  # (G*n,) token id of each slot
    parents: list[int]  # (G*n,) slot of the parent, or -1 where the parent is the prefix
    depths: list[int]  # (G*n,) distance from the prefix's end: 1 for a first class token
    leaves: list[int]  # (K,) slot of each class's [EOS]
    slots: int  # n
    nodes: int  # class nodes of the tree, copies and padding left out

    @property
    def groups(self) -> int:
        return len(self.tokens) // self.slots


def lay_out(sequences: Sequence[Sequence[int]], prefix: int, width: int) -> Layout:
    """Merge the class token sequences into a tree and pack it into closed groups of equal size.

    sequences: K different lists of token ids, the part after the prompt vectors, each ending in [EOS].
    prefix: H+1. width: W, to weigh padding and copies (12 W a slot) against attention (`SEEN` a slot seen).
    """
    tokens, parents, leaves = merge(sequences)
    children: list[list[int]] = [[] for _ in tokens]
    for node, parent in enumerate(parents):
        if parent >= 0:
            children[parent].append(node)
    below: list[list[int]] = [[] for _ in tokens]  # a node and all under it, parents first
    for node in reversed(range(len(tokens))):
        below[node] = [node, *(other for under in children[node] for other in below[under])]

    def closed(node: int, above: list[int], slots: int) -> Iterator[list[int]]:
        """The subtree in pieces of at most `slots` nodes, each with copies of all that is above it."""
        if len(above) + len(below[node]) <= slots:
            yield above + below[node]
            return
        chain, small = [*above, node], []
        for under in children[node]:
            if len(chain) + len(below[under]) <= slots:
                small.append(below[under])
            else:
                yield from closed(under, chain, slots)
        yield from (chain + piece for piece in _fill(small, slots - len(chain)))

    def pack(slots: int) -> list[list[int]]:
        tops = [node for node, parent in enumerate(parents) if parent < 0]
        return _fill([piece for top in tops for piece in closed(top, [], slots)], slots)

    def cost(slots: int, rows: int) -> int:
        return rows * (12 * width + SEEN * (prefix + slots))

    slots = longest = max(map(len, sequences))
    groups = pack(slots)
    least = cost(slots, slots * len(groups))
    for size in range(longest + 1, len(tokens) + 1):
        if cost(size, len(tokens)) >= least:  # even without padding and copies, and so for all larger ones
            break
        packed = pack(size)
        if cost(size, size * len(packed)) < least:
            slots, groups, least = size, packed, cost(size, size * len(packed))

    layout = Layout([], [], [], [], slots, len(tokens))
    place: dict[int, int] = {}
    for group in groups:
        slot_of = {-1: -1}  # copies of a node sit in different groups
        for node in group:
            parent = slot_of[parents[node]]
            slot_of[node] = place[node] = len(layout.tokens)
            layout.tokens.append(tokens[node])
            layout.parents.append(parent)
            layout.depths.append(1 if parent < 0 else layout.depths[parent] + 1)
        padding = slots - len(group)
        layout.tokens.extend([-1] * padding)
        layout.parents.extend([-1] * padding)
        layout.depths.extend([1] * padding)
    layout.leaves.extend(place[leaf] for leaf in leaves)
    return layout


def _fill(pieces: list[list[int]], room: int) -> list[list[int]]:
    """Bins of at most `room` nodes, each begun with the largest piece left and filled by others."""
    left: dict[int, list[list[int]]] = {}  # by size, large ones first
    for piece in sorted(pieces, key=len, reverse=True):
        left.setdefault(len(piece), []).append(piece)
    bins = []
    while sizes := [size for size, same in left.items() if same]:
        reached: dict[int, tuple[int, ...]] = {sizes[0]: (sizes[0],)}  # nodes -> sizes of the pieces taken
        for size in sizes:
            for _ in range(len(left[size]) - (size == sizes[0])):
                more = {n + size: (*taken, size) for n, taken in reached.items() if n + size <= room}
                if more.keys() <= reached.keys():
                    break
                reached = more | reached
        bins.append([node for size in reached[max(reached)] for node in left[size].pop()])
    return bins


class PromptTree(nn.Module):
    """Encoder of all class texts behind any prompt vectors: (B,H,W) -> (B,K,D).

    compiled: let torch.compile fuse the blocks; slower to start, meant for GPUs.
    Raises InputError when a text is empty, doubled, or longer than the text tower's context.
    """

    embedded: Tensor  # (G*n,W) class tokens with their positions
    projected: Tensor  # (G*n,3W) their queries, keys and values in the first block
    sos: Tensor  # (1,W) [SOS] with its position
    positions: Tensor  # (H,W) of the prompt vectors
    mask: Tensor  # (G,n,p+n) what each slot sees: the root and its own group
    leaf_mask: Tensor  # (G,m,p+n) what each question of the last block sees
    leaves: Tensor  # (K,) row of each class
    asking: Tensor  # (G*m,) class of each question in the last block
    read: Tensor  # (K,) question of each class

    def __init__(
        self, backbone: Backbone, class_texts: Sequence[str], prompt_length: int, compiled: bool = False
    ) -> None:
        super().__init__()
        sequences = class_tokens(class_texts, backbone.tokenizer, prompt_length, backbone.context)
        clip, device = backbone.clip, backbone.device
        # The frozen CLIP is shared by many models, so the tree refers to it without owning its parameters.
        self._clip = (clip,)
        self.width, self.prefix = backbone.text_width, prompt_length + 1
        self.layout = layout = lay_out(sequences, self.prefix, self.width)
        groups, n = layout.groups, layout.slots

        # In the last block only leaves ask, m a group; a group with fewer repeats one, which is not read.
        by_group: list[list[int]] = [[] for _ in range(groups)]
        for number, leaf in enumerate(layout.leaves):
            by_group[leaf // n].append(number)
        most = max(map(len, by_group))
        asking = [number for own in by_group for number in own + own[:1] * (most - len(own))]
        question = {number: place for place, number in reversed([*enumerate(asking)])}
        leaves = torch.tensor(layout.leaves)

        sees = torch.zeros(groups, n, n, dtype=torch.bool)
        for slot, parent in enumerate(layout.parents):  # parents come before children inside a group
            group, place = divmod(slot, n)
            if parent >= 0:
                sees[group, place] = sees[group, parent % n]
            sees[group, place, place] = True
        sees = torch.cat([torch.ones(groups, n, self.prefix, dtype=torch.bool), sees], 2)
        leaf_sees = sees[torch.arange(groups)[:, None], leaves[asking].view(groups, most) % n]

        positions = clip.positional_embedding.detach()
        tokens = torch.tensor(layout.tokens, device=device).clamp_min(0)
        depths = torch.tensor(layout.depths, device=device)
        with torch.no_grad():
            embedded = backbone.embed_tokens(tokens) + positions[self.prefix - 1 + depths]
            sos = backbone.embed_tokens(torch.tensor([backbone.borders[0]], device=device)) + positions[:1]
            first = clip.transformer.resblocks[0]
            projected = _project(first, first.ln_1(embedded[None]))[0]
        for name, value in {
            "embedded": embedded,
            "projected": projected,
            "sos": sos,
            "positions": positions[1 : self.prefix],
            "mask": _additive(sees, embedded),
            "leaf_mask": _additive(leaf_sees, embedded),
            "leaves": self.prefix + leaves,
            "asking": torch.tensor(asking),
            "read": torch.tensor([question[number] for number in range(len(leaves))]),
        }.items():
            self.register_buffer(name, value.to(device), persistent=False)
        self._encode = torch.compile(self._texts) if compiled else self._texts

    @property
    def tokens_per_video(self) -> int:
        """Nodes computed for one video (R), padding and copies included; the plain way computes K * 77."""
        return self.prefix + len(self.layout.tokens)

    @property
    def bytes_per_video(self) -> int:
        """Memory of one video's pass with gradient."""
        blocks = len(self._clip[0].transformer.resblocks)
        return KEPT * self.tokens_per_video * self.width * (blocks + 1) * self.embedded.element_size()

    @property
    def at_once(self) -> int:
        """Videos that one pass takes best: rows enough for the large products, few enough for the cache.

        Measured on a CPU: half a million values in `rows x W` or twice as many are alike, an eighth is 10 %
        slower. A GPU wants tens of thousands of rows.
        """
        values = 2**19 if self.embedded.device.type == "cpu" else 2**24
        return max(1, values // self.width // self.tokens_per_video)

    def forward(self, vectors: Tensor) -> Tensor:
        """Text features (B,K,D) of the prompts [SOS] P_1..P_H CLASS . [EOS], before normalisation.

        vectors: (B,H,W) prompt vectors, without positions.
        """
        if torch.is_grad_enabled() and vectors.requires_grad:
            return self._encode(vectors)
        return torch.cat([self._encode(part) for part in vectors.split(self.at_once)])

    def _texts(self, vectors: Tensor) -> Tensor:
        clip, batch, prefix = self._clip[0], len(vectors), self.prefix
        blocks = clip.transformer.resblocks
        root = torch.cat([self.sos.expand(batch, 1, -1), vectors + self.positions], 1)
        hidden = torch.cat([root, self.embedded.expand(batch, -1, -1)], 1)  # (B,R,W)
        for number, block in enumerate(blocks):
            last = block is blocks[-1]
            skip = self.width if last else 0  # in the last block only the leaves ask
            if number == 0:
                root = _project(block, block.ln_1(root), slice(skip, None))
                own = self.projected[:, skip:].expand(batch, -1, -1)
            else:
                rows = block.ln_1(hidden)
                projected = _project(block, rows, slice(skip, None))
                root, own = projected.split([prefix, rows.shape[1] - prefix], 1)
            head = (block.attn.num_heads, self.width // block.attn.num_heads)
            *root_query, root_key, root_value = root.unflatten(-1, (-1, *head)).unbind(2)  # (B,p,heads,d)
            *own_query, key, value = own.unflatten(-1, (-1, *head)).unbind(2)  # (B,G*n,heads,d)
            seen = self._with_root(root_key, key), self._with_root(root_value, value)
            if last:
                if number:
                    asks = _project(block, rows[:, self.leaves], slice(self.width))
                else:
                    asks = self.projected[self.leaves - prefix, : self.width].expand(batch, -1, -1)
                asks = asks.unflatten(-1, head)  # (B,K,heads,d)
                mixed = self._attend(asks[:, self.asking], *seen, self.leaf_mask)[:, self.read]
                hidden = hidden[:, self.leaves]  # (B,K,W)
            else:
                q, k, v = (part.transpose(1, 2) for part in (*root_query, root_key, root_value))
                rooted = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
                mixed = torch.cat([rooted, self._attend(own_query[0], *seen, self.mask)], 1)
            output = block.attn.out_proj
            hidden = hidden + block.ls_1(_linear(mixed.flatten(2), output.weight, output.bias))
            hidden = hidden + block.ls_2(_feed_forward(block, hidden))
        return _linear(clip.ln_final(hidden), clip.text_projection.t())

    def _with_root(self, root: Tensor, own: Tensor) -> Tensor:
        """What a group's slots see (B*G,heads,p+n,d): the root (B,p,heads,d) and their part of own
        (B,G*n,heads,d).
        """
        root = root[:, None].expand(-1, self.layout.groups, -1, -1, -1)
        return torch.cat([root, own.unflatten(1, (self.layout.groups, -1))], 2).transpose(2, 3).flatten(0, 1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Attention group by group: query (B,G*a,heads,d), key and value of `_with_root`, mask (G,a,p+n)."""
        apart = query.unflatten(1, (self.layout.groups, -1)).transpose(2, 3).flatten(0, 1)  # (B*G,heads,a,d)
        mask = mask[:, None].repeat(len(query), 1, 1, 1).to(query.dtype)
        mixed = F.scaled_dot_product_attention(apart, key, value, mask)
        return mixed.transpose(1, 2).unflatten(0, (len(query), -1)).flatten(1, 2)


def _project(block: Any, normed: Tensor, columns: slice = slice(None)) -> Tensor:
    """Queries, keys and values of a text block side by side (B,R,3W), or some columns of them."""
    return _linear(normed, block.attn.in_proj_weight[columns], block.attn.in_proj_bias[columns])


def _feed_forward(block: Any, hidden: Tensor) -> Tensor:
    """The second half of a text block, without its residual: (..., W) -> (..., W)."""
    up, activation, down = block.mlp
    if type(activation).__name__ != "QuickGELU":
        return block.mlp(block.ln_2(hidden))
    # x sigmoid(a x) = silu(a x) / a: one kernel at width 4W where open_clip's form takes three, forward and
    # back.
    stretched = _linear(QUICK * block.ln_2(hidden), up.weight, QUICK * up.bias)
    return _linear(F.silu(stretched), down.weight) / QUICK + down.bias


def _linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear of (B,R,W), with zeros added to few rows: a video's bits must not depend on how many B are."""
    count = rows.shape[0] * rows.shape[1]
    if count >= FEWEST:
        return F.linear(rows, weight, bias)
    padded = F.pad(rows.flatten(0, 1), (0, 0, 0, FEWEST - count))
    return F.linear(padded, weight, bias)[:count].unflatten(0, rows.shape[:2])


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """0 where `mask` is true, minus infinity elsewhere."""
    return torch.zeros(mask.shape, dtype=like.dtype).masked_fill(~mask, float("-inf"))
