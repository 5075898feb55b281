"""The prompt tree equals the plain way: one 77-token text per video and class, values and gradients."""

from __future__ import annotations

import functools

import open_clip
import pytest
import torch
from conftest import FULL_TEXT, SMALL, backbone, fixed
from torch import Tensor

from flowclip_core.config import PROMPTS
from flowclip_core.errors import InputError
from flowclip_core.model.backbone import Backbone
from flowclip_core.model.prompt_tree import PromptTree, lay_out
from flowclip_core.model.prompts import prompt_vectors
from flowclip_kit.datasets.class_names import CLASSES


def naive(tower: Backbone, names: list[str], vectors: Tensor) -> Tensor:
    """(B,H,W) -> (B,K,D), every class of every video as 77 tokens of its own."""
    start, end = tower.borders
    texts = []
    for video in vectors:
        for name in names:
            tokens = torch.tensor([start, *[0] * len(video), *tower.tokenize(f"{name}."), end])
            tokens = torch.nn.functional.pad(tokens, (0, 77 - len(tokens)))
            embedded = tower.embed_tokens(tokens)
            texts.append(torch.cat([embedded[:1], video, embedded[1 + len(video) :]]))
    ends = (
        torch.tensor([len(tower.tokenize(f"{name}.")) for name in names] * len(vectors))
        + 1
        + vectors.shape[1]
    )
    return tower.encode_prompts(torch.stack(texts), ends).unflatten(0, (len(vectors), len(names)))


def apart(found: Tensor, expected: Tensor) -> float:
    """Relative difference, as a vector: length of the difference over length of what is expected."""
    return ((found - expected).norm() / expected.norm()).item()


def compare(tower: Backbone, names: list[str], length: int) -> tuple[float, float]:
    """Relative difference of values and of the gradient with respect to the prompt vectors."""
    dtype = tower.clip.positional_embedding.dtype
    start = prompt_vectors(tower, PROMPTS[length])
    vectors = (start + 0.3 * fixed(1, *start.shape).to(dtype)).requires_grad_()
    # Drawn, not `fixed`: regular weights nearly cancel over the classes and leave a gradient of rounding
    # errors.
    weights = torch.randn(1, len(names), tower.width, generator=torch.Generator().manual_seed(0)).to(dtype)
    tree = PromptTree(tower, names, length)(vectors)
    (tree_gradient,) = torch.autograd.grad((tree * weights).sum(), vectors)
    plain, gradient = [], torch.zeros_like(vectors)
    for i in range(0, len(names), 51):  # in parts: 400 texts at once would need 10 GB
        part = naive(tower, names[i : i + 51], vectors)
        gradient += torch.autograd.grad((part * weights[:, i : i + 51]).sum(), vectors)[0]
        plain.append(part.detach())
    return apart(tree.detach(), torch.cat(plain, 1)), apart(tree_gradient, gradient)


@pytest.fixture(scope="module")
def wide() -> Backbone:
    """Full ViT-B/16 text width, three blocks: first, middle and last are treated differently."""
    vision = SMALL["vision_cfg"]
    return backbone({"embed_dim": 512, "vision_cfg": vision, "text_cfg": FULL_TEXT | {"layers": 3}})


@pytest.mark.parametrize(
    ("data", "length"),
    [("HMDB-51", 3), ("HMDB-51", 4), ("UCF-101", 5), pytest.param("Kinetics-400", 5, marks=pytest.mark.slow)],
)
def test_equals_the_naive_path_in_float32(wide, data, length):
    values, gradients = compare(wide, CLASSES[data], length)
    assert values < 2e-6 and gradients < 2e-6


@pytest.mark.parametrize(("data", "length"), [("HMDB-51", 5), ("UCF-101", 3)])
def test_equals_the_naive_path_in_float64(wide, data, length):
    exact = backbone(
        {"embed_dim": 512, "vision_cfg": SMALL["vision_cfg"], "text_cfg": FULL_TEXT | {"layers": 3}},
        dtype=torch.float64,
    )
    values, gradients = compare(exact, CLASSES[data], length)
    assert values < 1e-9 and gradients < 1e-9


def test_equals_the_naive_path_in_all_twelve_blocks_of_vit_b_16():
    tower = backbone(
        {"embed_dim": 512, "vision_cfg": SMALL["vision_cfg"], "text_cfg": FULL_TEXT | {"layers": 12}}
    )
    values, gradients = compare(tower, CLASSES["HMDB-51"], 5)
    assert values < 2e-6 and gradients < 2e-6


def test_the_comparison_notices_one_wrong_position():
    tower = backbone(SMALL)
    tree = PromptTree(tower, ["kick ball", "kick", "smile"], 3)
    vectors = prompt_vectors(tower, PROMPTS[3])[None]
    right = naive(tower, ["kick ball", "kick", "smile"], vectors)
    assert apart(tree(vectors), right) < 2e-6
    tree.embedded[0] += tower.clip.positional_embedding[5] - tower.clip.positional_embedding[4]
    tree.projected[0] += 0.01
    assert apart(tree(vectors), right) > 1e-4


def test_static_prompt_equals_open_clip(small):
    names = CLASSES["HMDB-51"]
    tree = PromptTree(small, names, 5)(prompt_vectors(small, PROMPTS[5])[None])[0]
    texts = open_clip.get_tokenizer("ViT-B-16")([f"{PROMPTS[5]} {name}." for name in names])
    assert apart(tree, small.clip.encode_text(texts)) < 2e-6


def test_videos_do_not_see_each_other(small):
    tree = PromptTree(small, CLASSES["HMDB-51"], 4)
    vectors = fixed(3, 4, small.text_width)
    torch.testing.assert_close(tree(vectors)[1:2], tree(vectors[1:2]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("data", "most"), [("HMDB-51", 180), ("UCF-101", 410), ("Kinetics-400", 1600)])
def test_the_tree_is_small_and_hardly_padded(wide, data, most):
    tree = PromptTree(wide, CLASSES[data], 5)
    assert tree.tokens_per_video <= most
    assert tree.tokens_per_video - tree.prefix - tree.layout.nodes <= 0.03 * most


@pytest.mark.parametrize("changes", [{"layers": 1}, {"ls_init_value": 0.5}, {"width": 48, "heads": 3}])
@pytest.mark.parametrize("quick", [True, False])
def test_equals_the_naive_path_in_towers_of_other_kinds(changes, quick):
    """One block, a scale behind each layer, an odd number of heads; QuickGELU or GELU."""
    torch.manual_seed(0)
    text = SMALL["text_cfg"] | {"layers": 3} | changes
    clip = open_clip.model.CLIP(32, SMALL["vision_cfg"], text, quick_gelu=quick).double()
    for name, value in clip.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(value, std=0.2)
    values, gradients = compare(Backbone(clip, "test", None), CLASSES["UCF-101"], 4)
    assert values < 1e-9 and gradients < 1e-9


@pytest.mark.parametrize("quick", [True, False])
def test_bfloat16_stays_close_to_float32(quick):
    """Under autocast, values and gradients differ by bfloat16's rounding: 8 bits, some 1 % after three
    blocks."""
    torch.manual_seed(0)
    clip = open_clip.model.CLIP(
        32, SMALL["vision_cfg"], SMALL["text_cfg"] | {"layers": 3, "width": 64}, quick_gelu=quick
    )
    tower = Backbone(clip, "test", None)
    tree, vectors = (
        PromptTree(tower, CLASSES["HMDB-51"], 5),
        prompt_vectors(tower, PROMPTS[5])[None].requires_grad_(),
    )
    weights = torch.randn(1, 51, tower.width, generator=torch.Generator().manual_seed(0))
    exact = tree(vectors)
    (exact_gradient,) = torch.autograd.grad((exact * weights).sum(), vectors)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = tree(vectors)
    (gradient,) = torch.autograd.grad((rounded.float() * weights).sum(), vectors)
    assert 1e-5 < apart(rounded.float(), exact) < 0.02
    assert 1e-5 < apart(gradient, exact_gradient) < 0.05


def test_a_compiled_tree_is_the_same_tree(small, monkeypatch):
    # Captured as a graph, forward and backward, without generating code, which takes minutes.
    monkeypatch.setattr(
        torch, "compile", functools.partial(torch.compile, backend="aot_eager", fullgraph=True)
    )
    names, vectors = CLASSES["HMDB-51"][:8], fixed(2, 5, small.text_width).requires_grad_()
    plain = PromptTree(small, names, 5)(vectors)
    compiled = PromptTree(small, names, 5, compiled=True)(vectors)
    assert apart(compiled, plain) < 2e-6
    gradients = [torch.autograd.grad(texts.square().sum(), vectors)[0] for texts in (compiled, plain)]
    assert apart(*gradients) < 2e-6


def test_large_subtrees_are_cut_and_copies_keep_groups_closed():
    sequences = [[1, 2, number, 99] for number in range(10, 40)] + [[3, 99]]
    layout = lay_out(sequences, prefix=6, width=16)
    assert layout.nodes == 2 + 60 + 2 < len(layout.tokens)
    assert layout.slots < 40 and len(layout.tokens) == layout.groups * layout.slots
    for slot, parent in enumerate(layout.parents):
        assert parent < slot and (parent < 0 or parent // layout.slots == slot // layout.slots)


def test_layout_against_a_walk_over_all_prefixes():
    sequences = [[5, 6, 1, 2], [5, 1, 2], [7, 1, 2], [5, 6, 8, 1, 2]]
    layout = lay_out(sequences, prefix=4, width=8)
    expected = {tuple(s[: i + 1]) for s in sequences for i in range(len(s))}
    found = set()
    for slot, token in enumerate(layout.tokens):
        path = []
        while slot >= 0:
            path.insert(0, layout.tokens[slot])
            assert layout.parents[slot] < slot
            if layout.parents[slot] >= 0:  # a group holds whole subtrees
                assert layout.parents[slot] // layout.slots == slot // layout.slots
            slot = layout.parents[slot]
        if token >= 0:
            found.add(tuple(path))
    assert found == expected and layout.nodes == len(expected)
    for sequence, leaf in zip(sequences, layout.leaves, strict=True):
        assert layout.tokens[leaf] == sequence[-1] and layout.depths[leaf] == len(sequence)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["walk", "walk"], "'walk' is in it twice"),
        (["Walk", "walk"], "'Walk' and 'walk' read the same"),
        (["ﬁsh", "fish"], "'ﬁsh' and 'fish' read the same"),  # as the tokenizer's cleaning has it
        (["walk", " "], "empty"),
        (["walk", "say <END_of_text> now"], "begins or ends a text"),
        (["walk " * 80, "run"], "86 tokens with its prompt of 3, the text tower takes 77"),
    ],
)
def test_unusable_names_are_refused(small, names, said):
    with pytest.raises(InputError, match=said):
        PromptTree(small, names, 3)
