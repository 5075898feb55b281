"""Training and testing on stored features (section 4.1).

A step's batch is a pure function of (seed, step), so a run that is stopped and resumed equals the whole run.
The loss has no term across videos, so the prompt tree, which takes nearly all of the time and memory, runs in
micro-batches, several at a time where there are cores for them. Their size and number change no bit on a CPU:
every video's texts are computed as if it were alone, and sums over videos follow an order of their own.

Letters: B videos of a batch, N test videos, T frames, K classes, D width.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from flowclip_core.config import EvalConfig, TrainConfig
from flowclip_core.data.features import Reader, as_features, central_frames, drawn_frames
from flowclip_core.errors import Diverged, InputError, NotFinite, notice
from flowclip_core.files import to_json, write_atomically
from flowclip_core.model.flowclip import FlowCLIP
from flowclip_core.model.hub import LARGEST, need_sound, tensors_sum
from flowclip_core.training import metrics

# Random streams of one run, kept apart so that changing one leaves the others as they are.
ORDER, DRAW, TEST, SHUFFLE = 1, 2, 3, 4
CHECKPOINT_SECONDS = 60.0

# Videos over which gradients of the trained parts are summed at once. The order of a sum decides its last
# bit, so it is the same whatever the micro-batch, and it bounds the memory of all that is not the prompt
# tree.
SUMMED = 32
# A product of fewer rows than this is summed in another order (measured with MKL: fewer than 4).
FEWEST = 4


@dataclass
class Log:
    """What a training leaves behind besides the weights: the loss at every step."""

    losses: list[float]
    micro_batch: int
    ranks: list[int]  # how many took part, one after the other where it was resumed by another number of them


class Alone:
    """What training asks of the processes that share it, for one that is alone.

    The module flowclip_kit.distributed.ranks is the same for several: each computes some of a batch's prompt
    trees.
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
        """How many there are."""
        return 1

    @staticmethod
    def follow(
        parameters, optimiser, losses: list[float], counts: list[int]
    ) -> tuple[list[float], list[int]]:
        """Begin with the main one's parameters, momentum, losses and counts."""
        return losses, counts

    @staticmethod
    def gradients_of_main(parameters, loss: float) -> float:
        """Take the step of the main one, whose loss is returned."""
        return loss

    @staticmethod
    def share(items):
        """This one's share of the items."""
        return items

    @staticmethod
    def add(scores: Tensor) -> Tensor:
        """The sum of all ones' scores."""
        return scores


def batch_at(step: int, videos: int, config: TrainConfig, seed: int, store: Reader, frames: int):
    """The step's videos (B,), crops (B,) and stored frames (B,T): a pure function of its arguments.

    Every epoch sees each video once, in a new order, with a new TSN draw and a random crop out of
    `config.crops`.
    """
    per_epoch = -(-videos // config.batch)
    epoch, number = divmod(step, per_epoch)
    order = np.random.default_rng([seed, ORDER, epoch]).permutation(videos)
    picked = order[number * config.batch : (number + 1) * config.batch]
    rng = np.random.default_rng([seed, DRAW, step])
    views = np.array([store.crops.index(crop) for crop in config.crops])
    crops = views[rng.integers(0, len(views), len(picked))]
    return picked, crops, drawn_frames(rng, len(picked), store.features.shape[2], frames)


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
    ranks=Alone,
) -> Log:
    """Fit the trainable parts by SGD with momentum and a cosine schedule, from the loss of Eq. 3.

    features: of N videos, (N,F,D) or (N,C,F,D) with C crops; each step draws T of the F frames and one crop a
    video.
    labels: class number of each video. rows: which of the N videos are trained on, in the order of the
    labels; default
    all. config: lengths and rates; default the paper's few-shot ones. seed: of the draws.
    memory: GiB that the prompt trees may take together; by default as suits the device. micro_batch: videos
    of one tree, instead of what fits. When memory still runs out, the micro-batch is halved and the step done
    again.
    lanes: micro-batches at a time, each in a thread of its own (CPU); default a core each where a batch takes
    several.
    checkpoint: file that holds the state about once a minute; an existing one is resumed, and it is removed
    at the end.
    ranks: see `Alone`. Raises InputError where another number of them began it, on GPUs, which round
    otherwise then.
    stop_after: leave after this many steps with the state in `checkpoint` (to test resuming).
    Raises Diverged, saying the step and the learning rate, where the loss or a trained part is no finite
    number any more; the checkpoint is then removed, since it leads there again.
    """
    store, config = as_features(features), config or TrainConfig()
    rows = np.arange(len(store.features)) if rows is None else np.asarray(rows)
    labels = np.asarray(labels)
    if labels.shape != rows.shape or not len(rows):
        raise InputError(
            f"labels: {labels.shape} of them for {len(rows)} videos; expected one each, and a video at least"
        )
    if not 0 <= labels.min() <= labels.max() < len(model.class_texts):
        raise InputError(
            f"labels: {labels.min()} to {labels.max()}; the model has classes 0 to {len(model.class_texts) - 1}"
        )
    config = _stored_crops(config, store, features)
    parameters = model.trained()
    optimiser = torch.optim.SGD(
        parameters.values(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    total, device = config.total_steps(len(rows)), model.backbone.mean.device
    if lanes is None:
        several = model.prompts is not None and config.batch > model.tree.at_once
        lanes = _cores() if device.type == "cpu" and several else 1
    micro = micro_batch or _micro_batch(model, memory, lanes)
    checkpoint = checkpoint if ranks.main() else None
    said = f"{model.config} {model.class_texts} {config} {seed}".encode() + rows.tobytes() + labels.tobytes()
    whose = hashlib.sha256(said).hexdigest()[:16]
    losses, counts = ranks.follow(
        parameters.values(), optimiser, *_resume(checkpoint, parameters, optimiser, whose, ranks.count())
    )
    first = len(losses)
    if counts[-1:] != [ranks.count()]:
        counts.append(ranks.count())
    saved = time.monotonic()
    model.train()
    with _one_thread(device), lanes_of(lanes) as run:
        for step in range(first, total):
            for group in optimiser.param_groups:
                group["lr"] = 0.5 * config.lr * (1 + math.cos(math.pi * step / total))
            picked, crops, frames = batch_at(step, len(rows), config, seed, store, model.config.frames)
            taken = torch.from_numpy(store.take(rows[picked], frames, crops)).to(device)
            targets = torch.from_numpy(labels[picked]).to(device)
            loss, micro = _step_that_fits(model, taken, targets, micro, run, ranks)
            losses.append(ranks.gradients_of_main(parameters.values(), loss))
            optimiser.step()
            stop = stop_after is not None and step + 1 >= stop_after
            save_now = checkpoint and (stop or time.monotonic() - saved > checkpoint_seconds)
            try:
                if not math.isfinite(losses[-1]):
                    raise NotFinite(f"the loss is {losses[-1]}")
                if save_now or step + 1 == total:  # else the next loss shows it
                    need_sound("the trained part", parameters, LARGEST if step + 1 == total else math.inf)
            except NotFinite as error:
                if checkpoint:
                    checkpoint.unlink(missing_ok=True)
                raise Diverged(
                    f"step {step + 1} of {total}, learning rate {config.lr:g}: {error}; nothing is kept of this run:"
                    " train at a lower rate"
                ) from None
            if save_now:
                _checkpoint(checkpoint, parameters, optimiser, losses, counts, whose)
                saved = time.monotonic()
            if stop:
                break
        else:
            if checkpoint:
                checkpoint.unlink(missing_ok=True)
    model.eval()
    return Log(losses, micro, counts)


def _stored_crops(config, store: Reader, given: object):
    """The settings with crops that are stored: of an array of one's own, those that it has.

    Raises InputError for a store that lacks one.
    """
    if missing := [crop for crop in config.crops if crop not in store.crops]:
        there = tuple(crop for crop in config.crops if crop in store.crops)
        if isinstance(given, Reader) or not there:
            raise InputError(
                f"{store.where}: crops {missing} are not stored; it holds {', '.join(store.crops)}"
            )
        return replace(config, crops=there)
    return config


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU, one thread for each product: what is computed here is small, and threads would wait for each
    other."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if device.type == "cpu":
            torch.set_num_threads(before)


@contextmanager
def lanes_of(count: int) -> Iterator[Callable]:
    """What stands for `map`: itself, or one that works in `count` threads. PyTorch then takes one core for
    each."""
    if count == 1:
        yield map
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(before)


def _step_that_fits(
    model: FlowCLIP, features: Tensor, targets: Tensor, micro: int, run: Callable, ranks=Alone
) -> tuple[float, int]:
    """`_step`, done again in micro-batches of half the size as often as memory runs out: the loss, and what
    fitted."""
    while True:
        model.zero_grad(set_to_none=True)
        try:
            return _step(model, features, targets, micro, run, ranks), micro
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if micro == 1 or not _out_of_memory(error) or ranks.together() and not isinstance(error, _NoRoom):
                raise
        # Out of the handler, whose traceback would hold on to what the pass had kept.
        micro = max(1, min(micro, len(targets)) // 2)
        if features.device.type == "cuda":
            torch.cuda.empty_cache()


def _step(
    model: FlowCLIP, features: Tensor, targets: Tensor, micro: int, run: Callable = map, ranks=Alone
) -> float:
    """Add the gradient of the batch's mean loss to the trained parts; returns that loss.

    features (B,T,D), targets (B,); micro: videos of one pass of the prompt tree; run: see `lanes_of`.
    """
    loss = 0.0
    for part, target in zip(features.split(SUMMED), targets.split(SUMMED), strict=True):
        loss += _accumulate(model, part, target, len(targets), micro, run, ranks)
    return loss


def _accumulate(
    model: FlowCLIP, features: Tensor, targets: Tensor, batch: int, micro: int, run: Callable, ranks
) -> float:
    """Add the gradient of these videos' share of the mean loss over `batch` videos; returns that share.

    The prompt tree goes first, some videos at a time, ahead and back: what each pass leaves are its texts,
    and the loss's gradient with respect to its prompts. All else is small and done over all videos together.
    """
    out = model.encode_video(features)
    seen = {name: value.detach().requires_grad_(value.requires_grad) for name, value in out.items()}
    prompts, everything = out.get("prompts"), torch.arange(len(targets), device=targets.device)
    own = prompts is not None and model.prompts.adapter is not None  # every video has texts of its own
    whole = own and micro >= len(targets) >= FEWEST and not ranks.together()

    def pass_of(videos: Tensor) -> tuple[Tensor, Tensor]:
        vectors = prompts.detach()[videos].requires_grad_()
        many = torch.arange(max(FEWEST, len(videos)), device=videos.device) % len(videos)
        with torch.enable_grad():  # a thread begins without
            texts = model.tree(vectors)
            fixed = {name: value.detach()[videos[many]] for name, value in out.items()}
            logits = model.score_classes(fixed, texts[many])["logits"][: len(videos)]
            share = F.cross_entropy(logits, targets[videos], reduction="sum") / batch
        return texts.detach(), torch.autograd.grad(share, vectors)[0]

    if prompts is None:
        texts = model.static_texts
    elif not own:
        texts = model.tree(prompts)
    elif whole:  # the match below serves its texts too
        vectors = prompts.detach().requires_grad_()
        found = model.tree(vectors)
        texts = found.detach().requires_grad_()
    else:
        texts, gradient = _shared(lambda videos: run(pass_of, videos.split(micro)), everything, ranks)
    share = F.cross_entropy(model.score_classes(seen, texts)["logits"], targets, reduction="sum") / batch
    share.backward()
    if whole:
        (gradient,) = torch.autograd.grad(found, vectors, texts.grad)
    ends = [(value, seen[name].grad) for name, value in out.items() if seen[name].grad is not None]
    ends += [(prompts, gradient)] if own else []
    if ends:  # a linear head on frozen features has nothing before it
        torch.autograd.backward(*zip(*ends, strict=True))
    return share.item()


def _shared(passes: Callable[[Tensor], Iterable], videos: Tensor, ranks) -> list[Tensor]:
    """What passes of the prompt tree give for all videos; each rank computes its share of them.

    A pass that has no room in one rank raises _NoRoom in all.
    """
    if not ranks.together():
        return [torch.cat(parts) for parts in zip(*passes(videos), strict=True)]
    found, lack = [], None
    try:
        found = [torch.cat(parts) for parts in zip(*passes(ranks.share_evenly(videos)), strict=True)]
    except RuntimeError as error:
        if not _out_of_memory(error):
            raise
        lack = _NoRoom(str(error))
    if ranks.any_of(lack is not None):
        raise lack or _NoRoom("not enough memory in another rank")
    return [ranks.join(value, len(videos)) for value in found]


class _NoRoom(RuntimeError):
    """The passes of the prompt tree do not fit into memory."""


def _micro_batch(model: FlowCLIP, memory: float | None, lanes: int) -> int:
    """Videos that a pass of the prompt tree takes: as many as it likes, of those that fit into `memory`
    GiB."""
    if memory is None:
        memory = 4.0
        if model.backbone.device.type == "cuda":
            memory = 0.6 * torch.cuda.mem_get_info(model.backbone.device)[0] / 2**30
    fits = int(memory * 2**30 / lanes / model.tree.bytes_per_video)
    return max(1, min(fits, model.tree.at_once))


def _out_of_memory(error: Exception) -> bool:
    # Only CUDA has an error class of its own; the CPU allocator raises a plain RuntimeError.
    said = str(error)
    if isinstance(error, torch.OutOfMemoryError | _NoRoom):
        return True
    return "DefaultCPUAllocator" in said or "not enough memory" in said


def _checkpoint(
    path: Path,
    parameters: dict,
    optimiser: torch.optim.Optimizer,
    losses: list[float],
    counts: list[int],
    run: str,
) -> None:
    tensors = {f"value.{name}": value.detach().cpu() for name, value in parameters.items()}
    for name, value in parameters.items():
        tensors[f"momentum.{name}"] = optimiser.state[value]["momentum_buffer"].cpu()
    said = {"losses": to_json(path, losses), "ranks": json.dumps(counts), "run": run}
    write_atomically(path, save(tensors, said | {"sum": _state_sum(tensors, said)}))


def _state_sum(tensors: dict[str, Tensor], said: dict[str, str]) -> str:
    sums = tensors_sum({name: value.numpy() for name, value in tensors.items()})
    return f"{sums} {hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]}"


def _resume(
    path: Path | None, parameters: dict, optimiser: torch.optim.Optimizer, run: str, count: int
) -> tuple[list[float], list[int]]:
    """Losses of the steps that are done, and how many ranks did them.

    A state that is damaged or another run's is left aside.
    """
    if path is None or not path.exists():
        return [], []
    shapes = {
        f"{kind}.{name}": value.shape for name, value in parameters.items() for kind in ("value", "momentum")
    }
    try:
        with safe_open(path, "pt") as file:
            tensors, said = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
        losses, counts = json.loads(said["losses"]), json.loads(said.get("ranks", "[1]"))
        if "sum" in said and (said.pop("sum") != _state_sum(tensors, said) or said["run"] != run):
            raise ValueError("another state than was written")
        if {name: value.shape for name, value in tensors.items()} != shapes or not all(
            map(math.isfinite, losses)
        ):
            raise ValueError("the state of another run")
        if not all(value.isfinite().all() for value in tensors.values()):
            raise ValueError("values that are not finite")
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = " ".join(str(error).split())
        notice(f"{path}: not the state of this training, or damaged ({why}); it begins anew")
        return [], []
    if next(iter(parameters.values())).device.type != "cpu" and counts[-1] != count:
        raise InputError(
            f"{path}: {len(losses)} steps of this training were made by {counts[-1]} ranks, and this call has"
            f" {count}: start it with {counts[-1]}, or delete that file to begin it again"
        )
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(tensors[f"value.{name}"])
            optimiser.state[value]["momentum_buffer"] = tensors[f"momentum.{name}"].to(value.device)
    return losses, counts


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
    pairs: Sequence[tuple[int, int]] = (),
) -> dict[str, float]:
    """Top-1 and top-5 of a trained model in percent; with `pairs` of classes that are each other reversed in
    time also what `metrics.pair_metrics` gives; with `config.controls` the same with the frames out of order.

    features, labels, rows: as of `train`. names: of the N videos, which decide the draws of several clips;
    default
    their numbers. config: default the paper's 4 clips, in the crops that there are.
    """
    store = as_features(features, names)
    config = _stored_crops(config or EvalConfig(), store, features)
    return test(model, store, np.asarray(labels), config, rows=rows, pairs=pairs)[0]


def test(
    model: FlowCLIP,
    store: Reader,
    labels: np.ndarray,
    config: EvalConfig,
    *,
    rows: np.ndarray | None = None,
    pairs: Sequence[tuple[int, int]] = (),
    ranks=Alone,
) -> tuple[dict[str, float], np.ndarray]:
    """What `evaluate` returns, and the scores (n,K) with the frames in order."""
    scores = score(model, store, config, rows=rows, ranks=ranks)
    found = {"top1": metrics.accuracy(scores, labels), "top5": metrics.accuracy(scores, labels, top=5)}
    found |= metrics.pair_metrics(scores, labels, pairs)
    for order in CONTROLS if config.controls else ():
        arranged = score(model, store, config, rows=rows, order=order, ranks=ranks)
        found[f"top1_{order}"] = metrics.accuracy(arranged, labels)
        found |= metrics.pair_metrics(arranged, labels, pairs, f"_{order}")
    return found, scores


@torch.inference_mode()
def score(
    model: FlowCLIP,
    features: np.ndarray | Tensor | Reader,
    config: EvalConfig,
    *,
    rows: np.ndarray | None = None,
    order: str = IN_ORDER,
    batch: int = 64,
    ranks=Alone,
) -> np.ndarray:
    """Class scores (n,K): the mean over all views of softmax (Eq. 3), as peers fuse their 4 x 3 views.

    Draws depend on `config.seed` and a video's name alone, not on the batch or the model: every variant sees
    the same.
    rows, ranks: as of `train`. Raises NotFinite naming the first video whose logits are not all finite
    numbers.
    """
    model.eval()
    store = as_features(features)
    rows = np.arange(len(store.features)) if rows is None else np.asarray(rows)
    frames, stored, device = model.config.frames, store.features.shape[2], model.backbone.mean.device
    fused = np.zeros((len(rows), len(model.class_texts)))
    with _one_thread(device):
        for clip in range(config.clips):
            for start in ranks.share(range(0, len(rows), batch)):
                part = rows[start : start + batch]
                names = [store.names[row] for row in part]
                picked = np.stack([_test_frames(name, clip, config, stored, frames, order) for name in names])
                for crop in config.crops:
                    views = np.full(len(part), store.crops.index(crop))
                    taken = torch.from_numpy(store.take(part, picked, views)).to(device)
                    logits = model(taken)["logits"]
                    if not (
                        good := logits.isfinite().all(1)
                    ).all():  # softmax would make a score of an infinite one
                        video = names[int(good.int().argmin())]
                        raise NotFinite(
                            f"test video {video}, crop {crop}: its logits are not all finite numbers"
                        )
                    fused[start : start + batch] += logits.softmax(-1).cpu().numpy()
    return ranks.add(torch.from_numpy(fused)).numpy() / (config.clips * len(config.crops))


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
