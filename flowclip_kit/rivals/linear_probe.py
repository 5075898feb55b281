"""A linear probe that starts from the texts: ZS-LP of CLAP (CVPR 2024), the baseline under LP++ and CLAP.

Paper: Silva-Rodriguez et al., "A Closer Look at the Few-Shot Adaptation of Large Vision-Language Models".
Official: jusiro/CLAP, trainers/adapters.py (no licence known: written from the paper).
logits = s n(mean I) . n(w_k), with w_k starting at n(t_k) and s CLIP's own scale.
"""

from __future__ import annotations

from torch import Tensor, nn

from flowclip_kit.rivals.contract import Rival, cosines, unit


class LinearProbe(Rival):
    DEVIATES = "image recipe on the mean frame; FlowCLIP's hand-crafted prompt"

    def build(self) -> None:
        self.weights = nn.Parameter(unit(self.hand_crafted()))

    def encode(self, frames: Tensor) -> dict[str, Tensor]:
        video = frames.mean(1)
        return {"video": video, "texts": self.weights, "logits": self.scale * cosines(video, self.weights)}
