"""BIKE's video concept spotting (CVPR 2023): frames weighted by the words of each class; nothing is trained.

Paper: Wu et al., "Bidirectional Cross-Modal Knowledge Exploration for Video Recognition with Pre-trained
Vision-Language Models". Official: whwu95/BIKE, modules/video_clip.py (MIT); written from the equations.
For word w of class k, softmax over the frames of cos(w, I_t) / 0.01; the mean over its words weights n(I_t);
logits = s (weighted mean) . n(t_k).
"""

from __future__ import annotations

import torch
from torch import Tensor

from flowclip_core.config import PROMPTS
from flowclip_core.model.prompts import prompt_vectors
from flowclip_kit.rivals.contract import Rival, unit

TAU = 0.01


class ConceptSpotting(Rival):
    DEVIATES = "words of the class text alone, [SOS] and padding left out; FlowCLIP's hand-crafted prompt"
    texts: Tensor  # (K,D)
    words: Tensor  # (N,D), class after class
    share: Tensor  # (K,N), 1 / number of the class's words

    def build(self) -> None:
        words, counts = self.word_features()
        self.register_buffer("texts", self.hand_crafted(), persistent=False)
        self.register_buffer("words", words, persistent=False)
        share = (
            torch.repeat_interleave(torch.eye(len(counts), dtype=words.dtype), counts, 1) / counts[:, None]
        )
        self.register_buffer("share", share, persistent=False)

    @torch.no_grad()
    def word_features(self) -> tuple[Tensor, Tensor]:
        """Features (N,D) of all tokens from the prompt's first to [EOS], and how many each class has."""
        tower, prompt = self.backbone, prompt_vectors(self.backbone, PROMPTS[5])
        start, end = (
            tower.embed_tokens(torch.tensor([token], device=tower.device)) for token in tower.borders
        )
        words = []
        for text in self.class_texts:
            name = tower.embed_tokens(torch.tensor(tower.tokenize(f"{text}."), device=tower.device))
            sequence = torch.cat([start, prompt, name, end])
            read = torch.arange(1, len(sequence), device=tower.device)
            words.append(tower.encode_prompts(sequence.expand(len(read), -1, -1), read))
        return torch.cat(words), torch.tensor([len(part) for part in words])

    def encode(self, frames: Tensor) -> dict[str, Tensor]:
        seen = unit(frames)
        weights = torch.einsum("nd,btd->bnt", unit(self.words), seen).div(TAU).softmax(-1)
        weights = self.share @ weights  # (B,K,T)
        video = weights @ seen  # (B,K,D), a video of its own for every class
        logits = self.scale * (video * unit(self.texts)).sum(-1)
        return {"weights": weights, "video": video, "texts": self.texts, "logits": logits}
