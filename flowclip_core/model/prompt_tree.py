"""The prompt tree: all K prompts of a video in one pass of the text tower.

Motion-aware prompts differ from video to video, so done plainly every video costs K passes over 77 tokens (CoCoOp's
way). But the text tower is causal and the K prompts of one video, [SOS] P_1..P_H CLASS . [EOS] (Eq. 7), share their
beginning with each other and parts of CLASS among classes: they are the root paths of a tree. A token's hidden state
depends on its ancestors alone, so each tree node is computed once, at position = depth, attending to «ancestors and
self»; a class is read at its leaf, [EOS]. Values and gradients are those of the plain way.

Layout of one video's nodes: the root ([SOS] and the H prompt vectors), then the class tokens in G groups of n slots. A
group is closed: it holds the class tokens above each of its nodes too, where need be as copies, so its nodes attend to
the root and to their own group only. Attention costs n a node instead of all nodes.

The tower is frozen: backward needs no gradient of its weights, so forward keeps little; both are written out here and
work in buffers that are used again (a `Room`). Two more savings are exact: class tokens enter the first block equal for
all videos and are projected once, and the last block is computed at the leaves alone.

Letters: B videos, H prompt vectors, K classes, G groups, n slots a group, m leaves of a group at most, p = 1+H rows of
the root, R = p + G n rows of a video, W text width in heads of width d, D shared width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from flowclip_core.data.labels import twins
from flowclip_core.errors import InputError
from flowclip_core.model.backbone import Backbone

aten = torch.ops.aten
PARTS = ("query", "key", "value")

# A slot's price in attention, per slot that it sees and in the unit of multiply-adds of the large products: the small
# products run at less than half of their speed, and softmax and copies come on top. Measured on a CPU, width 512.
SEEN = 6


@dataclass(frozen=True)
class Layout:
    """Where each node of the tree sits. Slots are numbered g*n + i over all groups; padding slots have token -1."""

    tokens: list[int]  # (G*n,) token id of each slot
    parents: list[int]  # (G*n,) slot of the parent, or -1 where the parent is the prefix
    depths: list[int]  # (G*n,) distance from the prefix's end: 1 for a first class token
    leaves: list[int]  # (K,) slot of each class's [EOS]
    slots: int  # n
    nodes: int  # class nodes of the tree, copies and padding left out

    @property
    def groups(self) -> int:
        return len(self.tokens) // self.slots


def merge(sequences: Sequence[Sequence[int]]) -> tuple[list[int], list[int], list[int]]:
    """The tree of token sequences: token and parent of each node, parents first, and each sequence's last node.

    A parent of -1 is what stands before all of them. Raises InputError when two sequences are equal.
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
    return tokens, parents, leaves


def class_tokens(texts: Sequence[str], tokenizer, prompt_length: int, context: int) -> list[list[int]]:
    """Token ids of each class text behind its prompt: CLASS, full stop, [EOS] (Eq. 7).

    Raises InputError for a text that is empty, holds what begins or ends a text, or is longer with its prompt than the
    text tower's context, and for two of the same tokens, naming the classes and the number of tokens.
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
                f"class {text!r}: {total} tokens with its prompt of {prompt_length}, the text tower takes {context};"
                " shorten the name"
            )
        if tokens in sequences:
            raise InputError(twins(f"{len(tokens)} tokens", sequences[tokens], text))
        sequences[tokens] = text
    return [list(tokens) for tokens in sequences]


def lay_out(sequences: Sequence[Sequence[int]], prefix: int, width: int) -> Layout:
    """Merge the class token sequences into a tree and pack it into closed groups of equal size.

    sequences: K lists of token ids, the part after the prompt vectors, each ending in [EOS].
    prefix: H+1. width: W, to weigh padding and copies (12 W a slot) against attention (`SEEN` for each slot seen).
    Raises InputError when two sequences are equal.
    """
    tokens, parents, leaves = merge(sequences)
    children: list[list[int]] = [[] for _ in tokens]
    for node, parent in enumerate(parents):
        if parent >= 0:
            children[parent].append(node)
    below: list[list[int]] = [[] for _ in tokens]  # a node and all under it, parents first
    for node in reversed(range(len(tokens))):
        below[node] = [node, *(one for under in children[node] for one in below[under])]
    tops = [node for node, parent in enumerate(parents) if parent < 0]

    def fill(pieces: list[list[int]], room: int) -> list[list[int]]:
        """Bins of at most `room` nodes, each begun with the largest piece left and filled as far as the others can."""
        left: dict[int, list[list[int]]] = {}  # by size, large ones first
        for piece in sorted(pieces, key=len, reverse=True):
            left.setdefault(len(piece), []).append(piece)
        bins = []
        while sizes := [size for size, found in left.items() if found]:
            reached: dict[int, tuple[int, ...]] = {sizes[0]: (sizes[0],)}  # nodes -> sizes of the pieces taken
            for size in sizes:
                for _ in range(len(left[size]) - (size == sizes[0])):
                    more = {n + size: (*taken, size) for n, taken in reached.items() if n + size <= room}
                    if more.keys() <= reached.keys():
                        break
                    reached = more | reached
            bins.append([node for size in reached[max(reached)] for node in left[size].pop()])
        return bins

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
        yield from (chain + found for found in fill(small, slots - len(chain)))

    def pack(slots: int) -> list[list[int]]:
        return fill([piece for top in tops for piece in closed(top, [], slots)], slots)

    def cost(slots: int, rows: int) -> int:
        return rows * (12 * width + SEEN * (prefix + slots))

    slots = longest = max(map(len, sequences))
    best, least = pack(slots), cost(slots, slots * len(pack(slots)))
    for tried in range(longest + 1, len(tokens) + 1):
        if cost(tried, len(tokens)) >= least:  # even without padding and copies, and so for all larger ones
            break
        groups = pack(tried)
        if cost(tried, tried * len(groups)) < least:
            slots, best, least = tried, groups, cost(tried, tried * len(groups))
    placed_tokens, placed_parents, placed_depths, where = [], [], [], {}
    for group in best:
        here: dict[int, int] = {-1: -1}  # copies of a node sit in groups of their own, each once a piece
        for node in group:
            slot = here[node] = len(placed_tokens)
            above = here[parents[node]]
            placed_tokens.append(tokens[node])
            placed_parents.append(above)
            placed_depths.append(1 if above < 0 else placed_depths[above] + 1)
            where[node] = slot
        padding = slots - len(group)
        placed_tokens += [-1] * padding
        placed_parents += [-1] * padding
        placed_depths += [1] * padding
    return Layout(placed_tokens, placed_parents, placed_depths, [where[leaf] for leaf in leaves], slots, len(tokens))


class Room:
    """Buffers of a pass over up to `videos` videos, made when they are first asked for and used again by later passes.

    keep: every block has its own where backward will look; otherwise all blocks share theirs.
    """

    def __init__(self, videos: int, keep: bool, like: Tensor) -> None:
        self.videos, self.keep, self._like = videos, keep, like
        self.norms: dict[str, tuple[Tensor, ...]] = {}  # what went in, means, inverse deviations
        self._buffers: dict[tuple, Tensor] = {}

    def scratch(self, name: str, batch: int, *shape: int) -> Tensor:
        """An uninitialised buffer (batch, *shape): the same one whenever name and shape are the same."""
        key = (name, *shape)
        if key not in self._buffers:
            with torch.inference_mode(False):  # it may serve a training after it has served a test
                self._buffers[key] = self._like.new_empty(self.videos, *shape)
        return self._buffers[key][:batch]

    def kept(self, name: str, number: int, batch: int, *shape: int) -> Tensor:
        """A buffer of block `number` that backward finds as forward left it."""
        return self.scratch(f"{name} {number}" if self.keep else name, batch, *shape)


@dataclass(frozen=True)
class Block:
    """One frozen block of the text tower: attention and feed-forward net, a norm before and a residual around each."""

    norm_1: nn.LayerNorm
    norm_2: nn.LayerNorm
    heads: int
    qkv: Tensor  # (3W,W)
    qkv_bias: Tensor
    out: Tensor  # (W,W)
    out_bias: Tensor
    up: Tensor  # (4W,W)
    up_bias: Tensor
    down: Tensor  # (W,4W)
    down_bias: Tensor
    stretch: float  # of what the activation is given, undone behind it
    activate: Callable[..., Tensor]  # (up, out=buffer)
    activate_back: Callable[..., Tensor]  # (gradient, up, grad_input=buffer)

    @classmethod
    def of(cls, block: nn.Module) -> Block:
        """The weights of one of open_clip's blocks. Raises InputError for an activation that is not CLIP's."""
        first, activation, second = block.mlp
        if type(activation).__name__ == "QuickGELU":  # x sigmoid(1.702 x): SiLU of 1.702 x, over 1.702
            stretch, ahead, back = 1.702, aten.silu.out, aten.silu_backward.grad_input
        elif isinstance(activation, nn.GELU) and activation.approximate == "none":
            stretch, ahead, back = 1.0, aten.gelu.out, aten.gelu_backward.grad_input
        else:
            raise InputError(f"the text tower's activation {activation} is not one of CLIP's, QuickGELU and GELU")
        qkv, bias = block.attn.in_proj_weight.detach(), block.attn.in_proj_bias.detach()
        out, down = _weights(block.attn.out_proj, block.ls_1), _weights(second, block.ls_2)
        return cls(
            block.ln_1, block.ln_2, block.attn.num_heads, qkv, bias, *out, *_weights(first), *down, stretch, ahead, back
        )


class PromptTree(nn.Module):
    """Encoder of all class texts behind any prompt vectors: (B,H,W) -> (B,K,D).

    Raises InputError when a text is empty, doubled, or longer than the text tower's context.
    """

    def __init__(self, backbone: Backbone, class_texts: Sequence[str], prompt_length: int) -> None:
        super().__init__()
        start = backbone.borders[0]
        sequences = class_tokens(class_texts, backbone.tokenizer, prompt_length, backbone.context)
        clip, device = backbone.clip, backbone.device
        # The towers are frozen and shared by many models, so the tree refers to them without owning their parameters.
        self._clip = (clip,)
        self._blocks = [Block.of(block) for block in clip.transformer.resblocks]
        self._rooms: list[Room] = []
        self.width, self.prefix = backbone.text_width, prompt_length + 1
        self.layout = layout = lay_out(sequences, self.prefix, self.width)
        groups, n, prefix = layout.groups, layout.slots, self.prefix

        positions = clip.positional_embedding.detach()
        tokens = torch.tensor(layout.tokens, device=device).clamp_min(0)
        embedded = backbone.embed_tokens(tokens) + positions[prefix - 1 + torch.tensor(layout.depths, device=device)]
        sees = torch.zeros(groups * n, groups * n, dtype=torch.bool)
        for slot, parent in enumerate(layout.parents):  # parents come before children inside a group
            if parent >= 0:
                sees[slot] = sees[parent]
            sees[slot, slot] = True
        own = torch.stack([sees[g * n : (g + 1) * n, g * n : (g + 1) * n] for g in range(groups)])
        own = torch.cat([torch.ones(groups, n, prefix, dtype=torch.bool), own], 2)

        # In the last block only leaves ask, m a group; groups with fewer repeat one of theirs, which is not read.
        by_group: list[list[int]] = [[] for _ in range(groups)]
        for number, leaf in enumerate(layout.leaves):
            by_group[leaf // n].append(number)
        most = max(map(len, by_group))
        asking = torch.tensor([found + found[:1] * (most - len(found)) for found in by_group])  # (G,m) classes
        column = {found[i]: g * most + i for g, found in enumerate(by_group) for i in range(len(found))}
        leaves = torch.tensor(layout.leaves)

        first = self._blocks[0]
        with torch.no_grad():  # class tokens enter the first block the same for every video: project them once
            projected = torch.addmm(first.qkv_bias, first.norm_1(embedded), first.qkv.t())
        for name, value in {
            "embedded": embedded,
            "projected": projected,
            "sos": backbone.embed_tokens(torch.tensor([start], device=device)) + positions[:1],
            "positions": positions[1:prefix],
            "mask": _additive(own, embedded)[:, None],  # (G,1,n,p+n)
            "leaf_mask": _additive(own[torch.arange(groups)[:, None], leaves[asking] % n], embedded)[:, None],
            "root_mask": _additive(torch.ones(prefix, prefix, dtype=torch.bool).tril(), embedded),
            "leaves": prefix + leaves,  # (K,) row of each class
            "asking": asking.flatten(),  # (G*m,) class of each question in the last block
            "read": torch.tensor([column[number] for number in range(len(leaves))]),  # (K,) question of each class
        }.items():
            self.register_buffer(name, value.detach().to(device), persistent=False)

    @property
    def tokens_per_video(self) -> int:
        """Nodes computed for one video (R), padding and copies included; the plain way computes K * 77."""
        return self.prefix + len(self.layout.tokens)

    @property
    def bytes_per_video(self) -> int:
        """Memory of one video's pass with gradient: some eleven values for each node, block and unit of width."""
        return 11 * self.tokens_per_video * self.width * (len(self._blocks) + 1) * self.embedded.element_size()

    @property
    def at_once(self) -> int:
        """Videos that one pass takes best: rows enough for the large products, few enough for the cache.

        Measured on a CPU: half a million values in `rows x W` or twice as many are alike, an eighth is 10 % slower. A
        GPU wants tens of thousands of rows.
        """
        values = 2**19 if self.embedded.device.type == "cpu" else 2**24
        return max(1, values // self.width // self.tokens_per_video)

    def forward(self, vectors: Tensor) -> Tensor:
        """Text features (B,K,D) of the prompts [SOS] P_1..P_H CLASS . [EOS], before normalisation.

        vectors: (B,H,W) prompt vectors, without positions.
        """
        if torch.is_grad_enabled() and vectors.requires_grad:
            return _Texts.apply(vectors, self)
        texts = []
        for part in vectors.split(self.at_once):
            room = self.take_room(len(part), keep=False)
            texts.append(self.ahead(part, room))
            self.give_back(room)
        return torch.cat(texts)

    def take_room(self, videos: int, keep: bool) -> Room:
        """A room that nobody uses; those that are too small go, and a new one comes in their place."""
        while self._rooms:
            try:
                room = self._rooms.pop()
            except IndexError:  # another thread was faster
                break
            if room.videos >= videos and room.keep >= keep:
                return room
        return Room(videos, keep, self.embedded)

    def give_back(self, room: Room) -> None:
        """Let the next pass have this room."""
        self._rooms.append(room)

    def forget(self) -> None:
        """Give the memory of all free rooms back."""
        self._rooms.clear()

    def ahead(self, vectors: Tensor, room: Room) -> Tensor:
        """What `forward` gives, without autograd: (B,H,W) -> (B,K,D); a room that keeps is then ready for `back`."""
        clip, batch, prefix = self._clip[0], len(vectors), self.prefix
        hidden = room.kept("hidden", 0, batch, self.tokens_per_video, self.width)
        hidden[:, :1], hidden[:, prefix:] = self.sos, self.embedded
        hidden[:, 1:prefix] = vectors + self.positions
        for number, block in enumerate(self._blocks):
            mixed = self._attend(room, number, block, hidden)
            given = hidden[:, self.leaves] if number == len(self._blocks) - 1 else hidden  # (B,R,W), last (B,K,W)
            middle = _product(mixed, block.out, room.kept("middle", number, *given.shape), given).add_(block.out_bias)
            normed = _norm(room, f"feed {number}", block.norm_2, middle)
            up = room.kept("up", number, *given.shape[:2], len(block.up))
            _product(normed, block.up, up, block.up_bias, beta=block.stretch, alpha=block.stretch)
            active = block.activate(up, out=room.scratch("active", *up.shape))
            hidden = room.kept("hidden", number + 1, *given.shape)
            _product(active, block.down, hidden, middle, alpha=1 / block.stretch).add_(block.down_bias)
        return _norm(room, "final", clip.ln_final, hidden) @ clip.text_projection.detach()

    def back(self, gradient: Tensor, room: Room) -> Tensor:
        """Gradient of the prompt vectors (B,H,W) from that of the texts (B,K,D); the room is that of their `ahead`."""
        clip, prefix = self._clip[0], self.prefix
        lost = _norm_back(room, "final", clip.ln_final, gradient @ clip.text_projection.detach().t())
        for number, block in reversed([*enumerate(self._blocks)]):
            first, last = number == 0, number == len(self._blocks) - 1
            up = room.kept("up", number, *lost.shape[:2], len(block.up))
            active = _product(lost, block.down.t(), room.scratch("active", *up.shape))
            block.activate_back(active, up, grad_input=active)  # the two stretches cancel
            normed = _product(active, block.up.t(), room.scratch("normed", *lost.shape))
            lost += _norm_back(room, f"feed {number}", block.norm_2, normed)
            mixed = _product(lost, block.out.t(), room.scratch("normed", *lost.shape))
            through = _norm_back(
                room, f"attention {number}", block.norm_1, self._attend_back(room, number, block, mixed)
            )
            if last and not first:
                through[:, self.leaves] += lost
            elif not last:  # behind the first block the class tokens are the same for all: only the root goes on
                through += lost[:, : through.shape[1]]
            lost = through
        return lost[:, 1:prefix]

    def _attend(self, room: Room, number: int, block: Block, hidden: Tensor) -> Tensor:
        """What each row takes from its ancestors and itself (B,R,W); in the last block each class's leaf (B,K,W)."""
        batch, prefix, width, heads, groups = len(hidden), self.prefix, self.width, block.heads, self.layout.groups
        first, last = number == 0, number == len(self._blocks) - 1
        normed = _norm(room, f"attention {number}", block.norm_1, hidden[:, :prefix] if first else hidden)
        skip = width if last else 0  # there, only leaves ask
        qkv = room.scratch("qkv", *normed.shape[:2], 3 * width - skip)
        _product(normed, block.qkv[skip:], qkv, block.qkv_bias[skip:])
        own = self.projected[None, :, skip:] if first else qkv[:, prefix:]
        *root_query, root_key, root_value = qkv[:, :prefix].split(width, -1)
        *query, key, value = own.split(width, -1)
        if last:
            at = self.leaves
            query = [self.projected[None, at - prefix, :width] if first else
                     torch.addmm(block.qkv_bias[:width], normed[:, at].flatten(0, 1), block.qkv[:width].t())
                     .unflatten(0, (batch, -1))]  # fmt: skip
            query = [query[0][:, self.asking]]
        apart = _split(query[0], groups, heads)
        asked = room.kept("query", number, batch, *apart.shape[1:]).copy_(apart)
        seen = []
        for name, root, rows in (("key", root_key, key), ("value", root_value, value)):
            apart = _split(rows, groups, heads)
            both = room.kept(name, number, batch, groups, heads, prefix + self.layout.slots, apart.shape[-1])
            both[..., :prefix, :], both[..., prefix:, :] = _split(root, 1, heads), apart
            seen.append(both)
        mixed = _mix(room, "own", number, asked, *seen, self.leaf_mask if last else self.mask)
        if last:
            return _join(mixed)[:, self.read]
        root = [self._root(room, number, block, batch, name) for name in PARTS]
        for buffer, part in zip(root, (*root_query, root_key, root_value), strict=True):
            buffer.copy_(_split(part, 1, heads))
        result = room.scratch("mixed", *hidden.shape)
        result[:, :prefix], result[:, prefix:] = _join(_mix(room, "root", number, *root, self.root_mask)), _join(mixed)
        return result

    def _attend_back(self, room: Room, number: int, block: Block, lost: Tensor) -> Tensor:
        """The gradient of the normed rows, of the root's alone in the first block, from that of what `_attend` gave."""
        batch, prefix, width, heads, groups = len(lost), self.prefix, self.width, block.heads, self.layout.groups
        first, last = number == 0, number == len(self._blocks) - 1
        own = lost[:, prefix:]
        if last:
            own = room.scratch("asked", batch, len(self.asking), width).zero_()
            own[:, self.read] = lost
        size, n = width // heads, self.layout.slots
        query = room.kept("query", number, batch, groups, heads, own.shape[1] // groups, size)
        seen = [room.kept(name, number, batch, groups, heads, prefix + n, size) for name in ("key", "value")]
        query, *seen = _mix_back(room, "own", number, query, *seen, _split(own, groups, heads))
        parts = [part[..., :prefix, :].sum(1, keepdim=True) for part in seen]  # the root is seen by every group
        if not last:
            root = [self._root(room, number, block, batch, name) for name in PARTS]
            root = _mix_back(room, "root", number, *root, _split(lost[:, :prefix], 1, heads))
            parts = [root[0], root[1] + parts[0], root[2] + parts[1]]
        qkv = room.scratch("qkv", batch, prefix if first else self.tokens_per_video, len(parts) * width)
        for rows, part in zip(qkv[:, :prefix].split(width, -1), parts, strict=True):
            rows.copy_(_join(part))
        if not first:
            own = [*([] if last else [query]), *(part[..., prefix:, :] for part in seen)]
            for rows, part in zip(qkv[:, prefix:].split(width, -1), own, strict=True):
                rows.unflatten(1, (groups, n)).unflatten(-1, (heads, size)).copy_(part.transpose(2, 3))
        normed = _product(qkv, block.qkv[-qkv.shape[-1] :].t(), room.scratch("normed", *qkv.shape[:2], width))
        if last and not first:
            normed[:, self.leaves] += _join(query)[:, self.read] @ block.qkv[:width]
        return normed

    def _root(self, room: Room, number: int, block: Block, batch: int, name: str) -> Tensor:
        """Where the root's queries, keys or values are kept: (B,1,heads,p,d)."""
        return room.kept(f"root {name}", number, batch, 1, block.heads, self.prefix, self.width // block.heads)


class _Texts(torch.autograd.Function):
    @staticmethod
    def forward(ctx, vectors: Tensor, tree: PromptTree) -> Tensor:
        ctx.tree, ctx.room = tree, tree.take_room(len(vectors), keep=True)
        return tree.ahead(vectors, ctx.room)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        if ctx.room is None:
            raise RuntimeError("the prompt tree goes back once: its buffers serve the next pass; call it again")
        found = ctx.tree.back(gradient, ctx.room)
        ctx.tree.give_back(ctx.room)
        ctx.room = None
        return found, None


def _weights(linear: nn.Linear, layer_scale: nn.Module | None = None) -> tuple[Tensor, Tensor]:
    """Weight and bias, with the layer scale behind them put in, where a tower has one."""
    weight, bias = linear.weight.detach(), linear.bias.detach()
    if layer_scale is None or isinstance(layer_scale, nn.Identity):
        return weight, bias
    return layer_scale.gamma.detach()[:, None] * weight, layer_scale.gamma.detach() * bias


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """0 where `mask` is true, minus infinity elsewhere."""
    return torch.zeros(mask.shape, dtype=like.dtype).masked_fill(~mask, float("-inf"))


def _split(rows: Tensor, groups: int, heads: int) -> Tensor:
    """(B,G*n,W) -> (B,G,heads,n,d), a view."""
    return rows.unflatten(1, (groups, -1)).unflatten(-1, (heads, -1)).transpose(2, 3)


def _join(parts: Tensor) -> Tensor:
    """(B,G,heads,n,d) -> (B,G*n,W)."""
    return parts.transpose(2, 3).flatten(3).flatten(1, 2)


def _product(rows: Tensor, weight: Tensor, out: Tensor, onto: Tensor | None = None, beta=1.0, alpha=1.0) -> Tensor:
    """out = beta * onto + alpha * rows @ weight^T; rows (B,R,a), weight (b,a), out (B,R,b), onto (b,) or (B,R,b)."""
    flat, into = rows.flatten(0, 1), out.flatten(0, 1)
    if onto is None:
        torch.mm(flat, weight.t(), out=into)
    else:
        onto = onto.flatten(0, 1) if onto.ndim == 3 else onto
        torch.addmm(onto, flat, weight.t(), beta=beta, alpha=alpha, out=into)
    return out


def _norm(room: Room, name: str, norm: nn.LayerNorm, rows: Tensor) -> Tensor:
    normed, *found = torch.native_layer_norm(rows, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    if room.keep:
        room.norms[name] = (rows, *found)
    return normed


def _norm_back(room: Room, name: str, norm: nn.LayerNorm, gradient: Tensor) -> Tensor:
    rows, *found = room.norms.pop(name)
    needed = [True, False, False]  # the norms are frozen too
    return aten.native_layer_norm_backward(
        gradient, rows, norm.normalized_shape, *found, norm.weight, norm.bias, needed
    )[0]


def _mix(room: Room, name: str, number: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Softmax attention of queries (B,G,heads,a,d) over keys and values (B,G,heads,b,d), group by group."""
    weights = room.kept(f"{name} weights", number, *query.shape[:4], key.shape[3])
    flat, (q, k, v) = weights.flatten(0, 2), (part.flatten(0, 2) for part in (query, key, value))
    _scaled(q, k.transpose(1, 2), query.shape[-1] ** -0.5, flat)
    weights += mask
    torch.softmax(weights, -1, out=weights)
    mixed = room.scratch(f"{name} mixed", *query.shape)
    torch.bmm(flat, v, out=mixed.flatten(0, 2))
    return mixed


def _scaled(one: Tensor, other: Tensor, scale: float, out: Tensor) -> None:
    """out = scale * one @ other, matrix by matrix."""
    torch.baddbmm(out, one, other, beta=0, alpha=scale, out=out)


def _mix_back(
    room: Room, name: str, number: int, query: Tensor, key: Tensor, value: Tensor, lost: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values, from that of what `_mix` gave."""
    weights = room.kept(f"{name} weights", number, *query.shape[:4], key.shape[3])
    lost = room.scratch(f"{name} mixed", *query.shape).copy_(lost)
    flat, (q, k, v, g) = weights.flatten(0, 2), (part.flatten(0, 2) for part in (query, key, value, lost))
    to_query, to_key, to_value = (
        room.scratch(f"{name} to {what}", *part.shape) for what, part in zip(PARTS, (query, key, value), strict=True)
    )
    torch.bmm(flat.transpose(1, 2), g, out=to_value.flatten(0, 2))
    raw = aten._softmax_backward_data(torch.bmm(g, v.transpose(1, 2)), flat, -1, flat.dtype)
    _scaled(raw, k, query.shape[-1] ** -0.5, to_query.flatten(0, 2))
    _scaled(raw.transpose(1, 2), q, query.shape[-1] ** -0.5, to_key.flatten(0, 2))
    return to_query, to_key, to_value
