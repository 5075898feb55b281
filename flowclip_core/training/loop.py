"""Training and testing on stored features (section 4.1).

A step's batch is a pure function of (seed, step), so a training that is stopped and resumed equals one that
is not. The loss has no term across videos, so the prompt tree, which takes nearly all of the time and memory,
runs in micro-batches, several at a time where there are cores for them. Their size and number change no bit
on a CPU: every video's texts are computed as if it were alone, and sums over videos follow an order of their
own.

Letters: B videos of a batch, N test videos, T frames, K classes, D width.
"""

from __future__ import annotations

import hashlib
import math
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flowclip_core.config import EvalConfig, TrainConfig
from flowclip_core.cores import available_cores
from flowclip_core.data.features import Reader, as_features, central_frames, drawn_frames
from flowclip_core.errors import Diverged, InputError, NotFinite
from flowclip_core.model.flowclip import FlowCLIP
from flowclip_core.model.hub import LARGEST, need_sound
from flowclip_core.training import state
from flowclip_core.training.metrics import accuracy

Settings = TypeVar("Settings", TrainConfig, EvalConfig)
Passes = Callable[[Tensor], Iterable[tuple[Tensor, ...]]]
Watch = Callable[[int, float, float], object]  # step from 1 on, its loss, its learning rate

# Random streams of one run, kept apart so that changing one leaves the others as they are.
ORDER, DRAW, TEST, SHUFFLE = 1, 2, 3, 4
CHECKPOINT_SECONDS = 60.0

# Videos over which gradients are summed at once. The order of a sum decides its last bit, so it is the same
# whatever the micro-batch; it also bounds the memory of all that is not the prompt tree.
SUMMED = 32
# A product of fewer rows than this is summed in another order (measured with MKL: fewer than 4).
FEWEST = 4


@dataclass
class Log:
    """What a training leaves behind besides the weights: the loss at every step."""

    losses: list[float]
    micro_batch: int
    ranks: list[int]  # how many took part, one after the other where another number of them resumed it


class Alone:
    """What training asks of the processes that share it, answered by one that is alone.

    flowclip_kit.distributed.ranks answers for several: each computes some of a batch's prompt trees.
    """

    @staticmethod
    def together() -> bool:
        """Whether there are several."""
        return False

    @staticmethod
    def main() -> bool:
        """Whether this one reads and writes."""
        return True

    @staticmethod
    def count() -> int:
        return 1

    @staticmethod
    def follow(
        parameters: Iterable[Tensor],
        optimiser: torch.optim.Optimizer,
        losses: list[float],
        counts: list[int],
    ) -> tuple[list[float], list[int]]:
        """Begin with the main one's parameters, momentum, losses and counts."""
        return losses, counts

    @staticmethod
    def gradients_of_main(parameters: Iterable[Tensor], loss: float) -> float:
        """Take the gradients of the main one; returns its loss."""
        return loss

    @staticmethod
    def share(items: range) -> range:
        """This one's share of the items."""
        return items

    @staticmethod
    def gather(passes: Passes, videos: Tensor) -> list[Tensor]:
        """What passes of the prompt tree give for all videos, each computing its share of them.

        A pass that has no room in one of several raises NoRoom in all.
        """
        return [torch.cat(parts) for parts in zip(*passes(videos), strict=True)]

    @staticmethod
    def add(scores: Tensor) -> Tensor:
        """The sum of everyone's scores."""
        return scores


def batch_at(
    step: int, videos: int, config: TrainConfig, seed: int, store: Reader, frames: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The step's videos (B,), crops (B,) and stored frames (B,T): a pure function of its arguments.

    Every epoch sees each video once, in a new order, with a new TSN draw and a random crop of `config.crops`.
    """
    epoch, number = divmod(step, -(-videos // config.batch))
    order = np.random.default_rng([seed, ORDER, epoch]).permutation(videos)
    picked = order[number * config.batch : (number + 1) * config.batch]
    rng = np.random.default_rng([seed, DRAW, step])
    views = np.array([store.crops.index(crop) for crop in config.crops])
    crops = views[rng.integers(0, len(views), len(picked))]
    return picked, crops, drawn_frames(rng, len(picked), store.features.shape[2], frames, config.jitter)


def train(
    model: FlowCLIP,
    features: np.ndarray | Tensor | Reader,
    labels: Sequence[int] | np.ndarray | Tensor,
    config: TrainConfig | None = None,
    seed: int = 0,
    *,
    rows: np.ndarray | None = None,
    memory: float | None = None,
    micro_batch: int | None = None,
    lanes: int | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    stop_after: int | None = None,
    ranks: Any = Alone,
    log: Watch | None = None,
) -> Log:
    """Fit the trainable parts by SGD with momentum and a cosine schedule, from the loss of Eq. 3.

    features: of N videos, (N,F,D) or (N,C,F,D) with C crops; each step draws T of the F frames and one crop a
    video. labels: class number of each video.
    config: lengths and rates; default the paper's few-shot ones. seed: of the draws.
    rows: which of the N videos are trained on, in the order of the labels; default all.
    memory: GiB that the prompt trees may take together; by default as suits the device. micro_batch: videos
    of one tree, instead of what fits. If memory runs out all the same, the step is done again in smaller
    ones.
    lanes: micro-batches at a time, each in a thread of its own (CPU); default one for each core.
    checkpoint: file that holds the state about once a minute; an existing one is resumed, and it is removed
    at the end. stop_after: leave after this many steps with the state in `checkpoint` (to test resuming).
    log: called after every step with its number from 1 on, loss and learning rate, in the main process alone;
    a training that is resumed tells it the steps before first, so that what it writes is whole.
    ranks: see `Alone`. Raises InputError where another number of them began it on GPUs, which round otherwise
    then; Diverged, with the step and the learning rate, where the loss or a trained part is no longer finite:
    the checkpoint is then removed, since it leads there again.
    """
    store, config = as_features(features), config or TrainConfig()
    rows, labels = labelled_rows(store, labels, rows, len(model.class_texts))
    config = _stored_crops(config, store, features)
    parameters, device = model.trained(), model.backbone.device
    optimiser = torch.optim.SGD(
        parameters.values(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    total = config.total_steps(len(rows))
    if lanes is None:
        several = model.prompts is not None and config.batch > model.tree.at_once
        lanes = available_cores() if device.type == "cpu" and several else 1
    micro = micro_batch or micro_batch_for(model, memory, lanes)
    checkpoint = checkpoint if ranks.main() else None
    settings = (
        f"{model.config} {model.class_texts} {config} {seed}".encode() + rows.tobytes() + labels.tobytes()
    )
    training = hashlib.sha256(settings).hexdigest()[:16]
    losses, counts = ranks.follow(
        parameters.values(),
        optimiser,
        *state.resume(checkpoint, parameters, optimiser, training, ranks.count()),
    )
    if counts[-1:] != [ranks.count()]:
        counts.append(ranks.count())
    saved = time.monotonic()
    if log and not ranks.main():
        log = None
    for step, loss in enumerate(losses):
        if log:
            log(step + 1, loss, config.rate(step, total))
    model.train()
    with one_thread(device.type == "cpu"), lanes_of(lanes) as run:
        for step in range(len(losses), total):
            for group in optimiser.param_groups:
                group["lr"] = config.rate(step, total)
            picked, crops, frames = batch_at(step, len(rows), config, seed, store, model.config.frames)
            videos = torch.from_numpy(store.take(rows[picked], frames, crops)).to(device)
            targets = torch.from_numpy(labels[picked]).to(device)
            loss, micro = _gradients_that_fit(model, videos, targets, micro, run, ranks)
            losses.append(ranks.gradients_of_main(parameters.values(), loss))
            optimiser.step()
            if log:
                log(step + 1, losses[-1], config.rate(step, total))
            last, stop = step + 1 == total, stop_after is not None and step + 1 >= stop_after
            due = checkpoint and (stop or time.monotonic() - saved > checkpoint_seconds)
            try:
                if not math.isfinite(losses[-1]):
                    raise NotFinite(f"the loss is {losses[-1]}")
                if due or last:  # else the next loss shows it
                    need_sound("the trained part", parameters, LARGEST if last else math.inf)
            except NotFinite as error:
                if checkpoint:
                    checkpoint.unlink(missing_ok=True)
                raise Diverged(
                    f"step {step + 1} of {total}, learning rate {config.lr:g}: {error}; nothing is kept of"
                    " this run: train at a lower rate"
                ) from None
            if checkpoint and due:
                state.write(checkpoint, parameters, optimiser, losses, counts, training)
                saved = time.monotonic()
            if stop:
                break
        else:
            if checkpoint:
                checkpoint.unlink(missing_ok=True)
    model.eval()
    return Log(losses, micro, counts)


def labelled_rows(
    store: Reader, labels: Sequence[int] | np.ndarray | Tensor, rows: np.ndarray | None, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """The rows that are trained on, by default all, and their labels. Raises InputError where they
    do not fit."""
    rows = np.arange(len(store.features)) if rows is None else np.asarray(rows)
    labels = np.asarray(labels)
    if labels.shape != rows.shape or not len(rows):
        raise InputError(
            f"labels: {labels.shape} of them for {len(rows)} videos; expected one each, and a video at least"
        )
    if not 0 <= labels.min() <= labels.max() < classes:
        raise InputError(
            f"labels: {labels.min()} to {labels.max()};"
            f" the model has {classes} classes: classes 0 to {classes - 1}"
        )
    return rows, labels


def _stored_crops(config: Settings, store: Reader, features: object) -> Settings:
    """The settings with crops that are stored: of the user's own array, those that it has.

    Raises InputError for a store that lacks one.
    """
    stored = tuple(crop for crop in config.crops if crop in store.crops)
    if stored == config.crops:
        return config
    if isinstance(features, Reader) or not stored:
        missing = [crop for crop in config.crops if crop not in store.crops]
        raise InputError(f"{store.where}: crops {missing} are not stored; it holds {', '.join(store.crops)}")
    return replace(config, crops=stored)


@contextmanager
def one_thread(applies: bool = True) -> Iterator[None]:
    """One thread for each product on a CPU: they are small here, and threads would wait for each other."""
    before = torch.get_num_threads()
    if applies:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def lanes_of(count: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """What stands for `map`: itself, or one that works in `count` threads, each on one core."""
    if count == 1:
        yield map
        return
    with (
        one_thread(),
        ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        yield pool.map


def _gradients_that_fit(
    model: FlowCLIP, videos: Tensor, targets: Tensor, micro: int, run: Callable[..., Any], ranks: Any
) -> tuple[float, int]:
    """`gradients`, again in micro-batches of half the size while memory runs out: the loss, and what
    fitted.
    """
    while True:
        model.zero_grad(set_to_none=True)
        try:
            return gradients(model, videos, targets, micro, run, ranks), micro
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if micro == 1 or not out_of_memory(error) or (ranks.together() and not isinstance(error, NoRoom)):
                raise
        # Out of the handler, whose traceback would hold on to what the pass had kept.
        micro = max(1, min(micro, len(targets)) // 2)
        if videos.device.type == "cuda":
            torch.cuda.empty_cache()


def gradients(
    model: FlowCLIP,
    videos: Tensor,
    targets: Tensor,
    micro: int,
    run: Callable[..., Any] = map,
    ranks: Any = Alone,
) -> float:
    """Add the gradient of the batch's mean loss to the trained parts; returns that loss.

    videos (B,T,D), targets (B,); micro: videos of one pass of the prompt tree; run: see `lanes_of`.
    """
    parts = zip(videos.split(SUMMED), targets.split(SUMMED), strict=True)
    loss = 0.0
    for part, labels in parts:
        loss += _accumulate(model, part, labels, len(targets), micro, run, ranks)
    return loss


def _accumulate(
    model: FlowCLIP,
    videos: Tensor,
    targets: Tensor,
    batch: int,
    micro: int,
    run: Callable[..., Any],
    ranks: Any,
) -> float:
    """Add the gradient of these videos' share of the mean loss over `batch` videos; returns that share.

    The prompt tree goes first, some videos at a time, forward and backward: each pass leaves its texts, and
    the loss's gradient with respect to its prompts. The rest is small and done over all videos together.
    """
    out = model.encode_video(videos)
    cut = {name: value.detach().requires_grad_(value.requires_grad) for name, value in out.items()}

    def loss_of(video: dict[str, Tensor], texts: Tensor, targets: Tensor) -> Tensor:
        logits = model.score_classes(video, texts)["logits"][: len(targets)]
        return F.cross_entropy(logits, targets, reduction="sum") / batch

    def tree_pass(picked: Tensor) -> tuple[Tensor, Tensor]:
        """Texts of some videos, and the gradient of their loss with respect to their prompts."""
        vectors = cut["prompts"].detach()[picked].requires_grad_()
        repeated = torch.arange(max(FEWEST, len(picked)), device=picked.device) % len(picked)
        with torch.enable_grad():  # a thread begins without
            texts = model.tree(vectors)
            fixed = {name: value.detach()[picked[repeated]] for name, value in out.items()}
            loss = loss_of(fixed, texts[repeated], targets[picked])
        return texts.detach(), torch.autograd.grad(loss, vectors)[0]

    tree_texts = None
    if model.prompts is None:
        texts = model.static_texts
    elif model.prompts.adapter is None:  # the same for all videos
        texts = model.tree(out["prompts"])
    elif (
        micro >= len(targets) >= FEWEST and not ranks.together()
    ):  # one pass, whose texts serve the loss below
        tree_texts = model.tree(cut["prompts"])
        texts = tree_texts.detach().requires_grad_()
    else:
        numbers = torch.arange(len(targets), device=targets.device)
        texts, cut["prompts"].grad = ranks.gather(lambda mine: run(tree_pass, mine.split(micro)), numbers)
    loss = loss_of(cut, texts, targets)
    loss.backward()
    if tree_texts is not None:
        tree_texts.backward(texts.grad)
    ends = [(value, cut[name].grad) for name, value in out.items() if cut[name].grad is not None]
    if ends:  # a linear head on frozen features has nothing before it
        values, gradients = zip(*ends, strict=True)
        torch.autograd.backward(values, gradients)
    return loss.item()


class NoRoom(RuntimeError):
    """The passes of the prompt tree do not fit into memory."""


def micro_batch_for(model: FlowCLIP, memory: float | None, lanes: int) -> int:
    """Videos that a pass of the prompt tree takes: as suits it best, if they fit into `memory` GiB."""
    if memory is None:
        memory = 4.0
        if model.backbone.device.type == "cuda":
            memory = 0.6 * torch.cuda.mem_get_info(model.backbone.device)[0] / 2**30
    fit = int(memory * 2**30 / lanes / model.tree.bytes_per_video)
    return max(1, min(fit, model.tree.at_once))


def out_of_memory(error: Exception) -> bool:
    """Whether it says that memory ran out."""
    # Only CUDA has an error class of its own; the CPU allocator raises a plain RuntimeError.
    if isinstance(error, torch.OutOfMemoryError | NoRoom):
        return True
    return "DefaultCPUAllocator" in str(error) or "not enough memory" in str(error)


IN_ORDER, SHUFFLED, REVERSED, REPEATED = "in order", "shuffled", "reversed", "repeated"
CONTROLS = (SHUFFLED, REVERSED, REPEATED)


def arrange(frames: np.ndarray, order: str, rng: np.random.Generator) -> np.ndarray:
    """The frame numbers (B,T) in another order: the controls of what a model takes from time."""
    if order == SHUFFLED:
        return rng.permuted(frames, axis=1)
    if order == REVERSED:
        return frames[:, ::-1]
    if order == REPEATED:
        return np.repeat(frames[:, frames.shape[1] // 2, None], frames.shape[1], axis=1)
    return frames


def evaluate(
    model: FlowCLIP,
    features: np.ndarray | Tensor | Reader,
    labels: Sequence[int] | np.ndarray | Tensor,
    config: EvalConfig | None = None,
    *,
    rows: np.ndarray | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, float]:
    """Top-1 and top-5 of a trained model in percent; with `config.controls` also top-1 with the frames out of
    order.

    features, labels, rows: as for `train`. names: of the N videos, which decide the draws of several clips;
    default their numbers. config: default the paper's 4 clips, in the crops that there are.
    """
    store, labels = as_features(features, names), np.asarray(labels)
    config = _stored_crops(config or EvalConfig(), store, features)
    values = accuracies(score(model, store, config, rows=rows), labels)
    for order in CONTROLS if config.controls else ():
        values[f"top1_{order}"] = accuracy(score(model, store, config, rows=rows, order=order), labels)
    return values


def accuracies(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Top-1 and top-5 in percent by name. scores: (N,K), labels: (N,)."""
    return {f"top{top}": accuracy(scores, labels, top) for top in (1, 5)}


@torch.inference_mode()
def score(
    model: FlowCLIP,
    features: np.ndarray | Tensor | Reader,
    config: EvalConfig,
    *,
    rows: np.ndarray | None = None,
    order: str = IN_ORDER,
    batch: int = 64,
    ranks: Any = Alone,
) -> np.ndarray:
    """Class scores (n,K): the mean over all views of softmax (Eq. 3), as peers fuse their 4 x 3 views.

    Draws depend on `config.seed` and a video's name alone, so every variant sees the same frames.
    rows, ranks: as for `train`. Raises NotFinite naming the first video whose logits are not all finite.
    """
    model.eval()
    store, device = as_features(features), model.backbone.device
    rows = np.arange(len(store.features)) if rows is None else np.asarray(rows)
    fused = np.zeros((len(rows), len(model.class_texts)))
    with one_thread(device.type == "cpu"):
        for clip in range(config.clips):
            for start in ranks.share(range(0, len(rows), batch)):
                part = rows[start : start + batch]
                names = [store.names[row] for row in part]
                stored, frames = store.features.shape[2], model.config.frames
                picked = np.stack([_test_frames(name, clip, config, stored, frames, order) for name in names])
                for crop in config.crops:
                    views = np.full(len(part), store.crops.index(crop))
                    videos = torch.from_numpy(store.take(part, picked, views)).to(device)
                    logits = _logits(model, videos)
                    finite = logits.isfinite().all(1)
                    if not finite.all():  # softmax would make a score of an infinite one
                        video = names[int(finite.int().argmin())]
                        raise NotFinite(
                            f"test video {video}, crop {crop}: its logits are not all finite numbers"
                        )
                    fused[start : start + batch] += logits.softmax(-1).cpu().numpy()
    total: np.ndarray = ranks.add(torch.from_numpy(fused)).numpy()
    return total / (config.clips * len(config.crops))


def _logits(model: FlowCLIP, videos: Tensor) -> Tensor:
    """Logits (B,K) of `forward`; videos with equal prompts, such as still ones, share a pass of the tree."""
    if not isinstance(model, FlowCLIP) or model.prompts is None:
        logits: Tensor = model(videos)["logits"]
        return logits
    out = model.encode_video(videos)
    prompts, which = out["prompts"].unique(dim=0, return_inverse=True)
    return model.score_classes(out, model.tree(prompts)[which])["logits"]


def _test_frames(
    name: str, clip: int, config: EvalConfig, stored: int, frames: int, order: str
) -> np.ndarray:
    video = zlib.crc32(name.encode())
    if config.clips == 1:
        picked = central_frames(stored, frames)[None]
    else:
        rng = np.random.default_rng([config.seed, TEST, clip, video])
        picked = drawn_frames(rng, 1, stored, frames)
    return arrange(picked, order, np.random.default_rng([config.seed, SHUFFLE, clip, video]))[0]
