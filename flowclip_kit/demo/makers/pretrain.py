"""Train the demo's tiny CLIP again: `python -m flowclip_kit.demo.makers.pretrain`.

An open_clip model (ModifiedResNet and a 2-layer causal text tower with CLIP's own tokenizer) learns from
40,000 single stills and captions. It learns what stills and words look like, and nothing about motion: no
caption tells which way time runs. 2,200 steps take about 10 minutes on two quiet CPU cores. The same seed,
thread count and torch version give the same weights.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import sys
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP
from safetensors.torch import save
from torch.nn import functional as F

from flowclip_core.files import sha256, to_json, write_atomically
from flowclip_kit.demo import world
from flowclip_kit.demo.actions import ACTIONS
from flowclip_kit.demo.backbone import FOLDER, load_tiny_clip, untrained, word_tokens
from flowclip_kit.demo.figures import HEIGHT, PLACES, Look, Nuisance
from flowclip_kit.demo.makers.captions import Still, caption, describe, vocabulary
from flowclip_kit.distributed.process_pool import end_with_parent
from flowclip_kit.paths import cache_dir

STILLS, STEPS, BATCH, WARM_UP, RATE = 40_000, 2200, 96, 50, 8e-4
WEB = Look(places=tuple(PLACES), noise=(4.0, 9.0), light=(0.8, 1.2))
TEMPLATE = "a common human action of {}."
START, END = 49406, 49407  # CLIP's first and last token
MEAN, DEVIATION = (torch.tensor(v).view(3, 1, 1) * 255 for v in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))


# --- data ---


def _some_stills(seed: int, numbers: range) -> tuple[np.ndarray, list[Still]]:
    images, stills, bases = [], [], list(ACTIONS)
    for number in numbers:
        rng = np.random.default_rng([zlib.crc32(b"web"), seed, number])
        action = ACTIONS[bases[rng.integers(len(bases))]]
        nuisance = Nuisance(WEB, 1, rng, width=HEIGHT)
        state = action.at(rng.uniform())
        images.append(nuisance.frame(state, 0))
        stills.append(describe(state, nuisance))
    return np.stack(images), stills


def web_stills(count: int, seed: int, jobs: int = 2) -> tuple[np.ndarray, list[Still]]:
    """Stills of all actions in all places: (count, 64, 64, 3) uint8, and what may be said of each."""
    parts = [range(i, min(i + 1000, count)) for i in range(0, count, 1000)]
    if jobs <= 1 or len(parts) == 1:
        drawn = [_some_stills(seed, part) for part in parts]
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=context, initializer=end_with_parent) as pool:
            drawn = list(pool.map(partial(_some_stills, seed), parts))
    return np.concatenate([images for images, _ in drawn]), [still for _, stills in drawn for still in stills]


def draw_batch(images: np.ndarray, stills: list[Still], seed: int, step: int) -> tuple[np.ndarray, list[str]]:
    """Images (96, 3, 64, 64) float32 in 0..255, shifted, mirrored, of other contrast; and fresh captions."""
    rng = np.random.default_rng([seed, step])
    chosen = rng.integers(len(stills), size=BATCH)
    texts = [caption(stills[i], rng) for i in chosen]
    batch = np.roll(images[chosen], rng.integers(-5, 6, size=2), axis=(1, 2)).astype(np.float32)
    flip = rng.random(BATCH) < 0.5
    batch[flip] = batch[flip, :, ::-1]
    gain, offset = (
        rng.uniform(low, high, (BATCH, 1, 1, 1)).astype(np.float32) for low, high in ((0.8, 1.2), (-20, 20))
    )
    batch = np.clip((batch - 128) * gain + 128 + offset, 0, 255)
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2)), texts


def tokens(text: str) -> list[int]:
    """CLIP's token ids of a caption, word by word: the tokenizer's own, ten times as fast."""
    return [START, *(token for word in words_of(text) for token in word_tokens(word)), END]


def words_of(text: str) -> list[str]:
    """The words of a caption; a full stop is one."""
    return text.replace(".", " . ").split()


# --- training ---


class Trainer:
    """Contrastive training with a compact token table: captions use some 130 of the 49,408 rows."""

    def __init__(self, steps: int, seed: int) -> None:
        self.steps, self.model = steps, untrained(seed).train()
        self.ids = sorted({START, END} | {token for word in vocabulary() for token in word_tokens(word)})
        self.row = {token: i for i, token in enumerate(self.ids)}  # in order: the end token stays the largest
        self.table = torch.nn.Parameter(self.model.token_embedding.weight.data[self.ids].clone())
        self.model.token_embedding.weight.requires_grad_(False)
        trained = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad] + [
            ("table", self.table)
        ]
        decay = [p for n, p in trained if p.ndim >= 2 and n not in ("table", "positional_embedding")]
        rest = [p for n, p in trained if p.ndim < 2 or n in ("table", "positional_embedding")]
        self.parameters = [*decay, *rest]
        self.optimizer = torch.optim.AdamW(
            [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
            lr=RATE,
            betas=(0.9, 0.98),
        )

    def rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to zero."""
        if step < WARM_UP:
            return RATE * (step + 1) / WARM_UP
        return RATE * 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / max(self.steps - WARM_UP, 1)))

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        """(B, D) of captions, cut at the longest one: exact, as the text tower is causal."""
        rows = [[self.row[token] for token in tokens(text)] for text in texts]
        length, model = max(map(len, rows)), self.model
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        x = self.table[ids] + model.positional_embedding[:length]
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
        return x[torch.arange(len(rows)), ids.argmax(dim=-1)] @ model.text_projection

    def step(self, step: int, pixels: np.ndarray, texts: list[str]) -> float:
        """One update; returns the loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        image = F.normalize(self.model.encode_image((torch.from_numpy(pixels) - MEAN) / DEVIATION), dim=-1)
        text = F.normalize(self.encode_text(texts), dim=-1)
        logits = self.model.logit_scale.exp() * image @ text.T
        target = torch.arange(len(texts))
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.model.logit_scale.data.clamp_(max=math.log(100))
        return float(loss.detach())

    def weights(self) -> bytes:
        """The safetensors file: half precision, of the token table only the trained rows."""
        state = self.model.state_dict()
        del state["token_embedding.weight"]
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
        return save({**state, "token_ids": torch.tensor(self.ids), "token_rows": self.table.detach().half()})

    def scattered(self) -> CLIP:
        """The model with the trained rows back in its full token table."""
        self.model.token_embedding.weight.data[self.ids] = self.table.detach()
        return self.model


def fresh_clips(name: str, videos: int, frames: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Middle crops (N, frames, 64, 64, 3) uint8 and labels (N,) of videos that are in no set."""
    drawn = [(label, index) for label in world.CLASSES[name] for index in range(1000, 1000 + videos)]
    clips = np.stack([world.render(name, label, index, frames)[:, :, 8:72] for label, index in drawn])
    return clips, np.arange(len(drawn)) // videos


def zero_shot(model: CLIP, name: str, clips: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Percentages: top1, top5 of mean frame features; `order`: how often a true name beats its reverse."""
    classes = list(world.CLASSES[name])
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        prompts = [TEMPLATE.format(world.spaced(label)) for label in classes]
        text = model.encode_text(open_clip.tokenize(prompts), normalize=True)
        parts = torch.from_numpy(clips).flatten(0, 1).permute(0, 3, 1, 2).split(256)
        features = torch.cat([model.encode_image((part.float() - MEAN) / DEVIATION) for part in parts])
        scores = F.normalize(features.unflatten(0, clips.shape[:2]).mean(dim=1), dim=-1) @ text.T
    model.train(was_training)
    truth = torch.from_numpy(labels)
    best = scores.argsort(dim=-1, descending=True)
    reverse = {
        classes.index(a): classes.index(b) for pair in world.pairs(name) for a, b in (pair, pair[::-1])
    }
    paired = [(row, int(y)) for row, y in zip(scores, labels, strict=True) if int(y) in reverse]
    order = [float(row[y] > row[reverse[y]]) for row, y in paired]
    return {
        "top1": round(100 * (best[:, 0] == truth).float().mean().item(), 1),
        "top5": round(100 * (best[:, :5] == truth[:, None]).any(-1).float().mean().item(), 1),
        "order": round(100 * float(np.mean(order)), 1),
    }


def run(steps: int, seed: int, out: Path, attempts: list[str], threads: int = 2) -> dict:
    """Train and write `tiny_clip.safetensors`, `.json` and `.log.json` to `out`; returns the log."""
    torch.set_num_threads(threads)
    began = time.time()
    images, stills = web_stills(STILLS, seed, jobs=threads)
    print(f"{len(stills)} stills in {time.time() - began:.0f} s", flush=True)
    trainer, losses, scores = Trainer(steps, seed), {}, {}
    words: set[str] = set()
    watched = {name: fresh_clips(name, 4) for name in world.LOOKS}
    recent = []
    for step in range(steps):
        pixels, texts = draw_batch(images, stills, seed, step)
        words.update(word for text in texts for word in words_of(text))
        recent.append(trainer.step(step, pixels, texts))
        if (step + 1) % 50 == 0 or step + 1 == steps:
            losses[step + 1], recent = round(float(np.mean(recent)), 4), []
            passed = f"{time.time() - began:.0f} s"
            print(f"step {step + 1}/{steps}  loss {losses[step + 1]:.3f}  {passed}", flush=True)
        if (step + 1) % 400 == 0 or step + 1 == steps:
            model = trainer.scattered()
            scores[step + 1] = {name: zero_shot(model, name, *clips) for name, clips in watched.items()}
            print(scores[step + 1], flush=True)
    data = trainer.weights()
    write_atomically(out / "tiny_clip.safetensors", data)
    if out.resolve() != FOLDER.resolve():
        write_atomically(out / "tiny_clip.json", (FOLDER / "tiny_clip.json").read_text())
    log = {
        "sha256": sha256(out / "tiny_clip.safetensors"),
        "world": world.VERSION,
        "seed": seed,
        "steps": steps,
        "batch": BATCH,
        "rate": RATE,
        "stills": STILLS,
        "threads": threads,
        "seconds": round(time.time() - began),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "open_clip": open_clip.__version__,
            "numpy": np.__version__,
        },
        "machine": platform.machine(),
        "loss": losses,
        "zero_shot_watched": scores,
        "attempts": attempts,
        "words": sorted(words),
        "token_ids": trainer.ids,
    }
    log_path = out / "tiny_clip.log.json"
    write_atomically(log_path, to_json(log_path, log, indent=1) + "\n")
    model = load_tiny_clip(out)
    log["zero_shot"] = {name: zero_shot(model, name, *fresh_clips(name, world.DRAWN)) for name in world.LOOKS}
    write_atomically(log_path, to_json(log_path, log, indent=1) + "\n")
    return log


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m flowclip_kit.demo.makers.pretrain", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="optimiser steps (default %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=cache_dir() / "tiny_clip", help="folder to write to (default %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of stills, captions and initial weights (default %(default)s)"
    )
    options = parser.parse_args(arguments)
    # Before torch is imported: waiting threads that spin take the core from whoever else needs it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    log = run(options.steps, options.seed, options.out, [])
    print(json.dumps({"sha256": log["sha256"], "zero_shot": log["zero_shot"]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
