"""Other methods on FlowCLIP's stored features: what a user would pick instead, under equal conditions.

A new method is one file with a subclass of `Rival`, and one line here.
"""

from flowclip_kit.rivals.actionclip import LSTM, Transf
from flowclip_kit.rivals.bike import ConceptSpotting
from flowclip_kit.rivals.cocoop import CoCoOp
from flowclip_kit.rivals.contract import Recipe, Rival
from flowclip_kit.rivals.coop import CoOp
from flowclip_kit.rivals.ju import Ju
from flowclip_kit.rivals.linear_probe import LinearProbe
from flowclip_kit.rivals.tip_adapter import TipAdapterF
from flowclip_kit.rivals.xclip import XCLIP

METHODS: dict[str, type[Rival]] = {
    "linear probe": LinearProbe,
    "Tip-Adapter-F": TipAdapterF,
    "CoOp": CoOp,
    "CoCoOp": CoCoOp,
    "Ju et al.": Ju,
    "ActionCLIP Transf": Transf,
    "ActionCLIP LSTM": LSTM,
    "X-CLIP head": XCLIP,
    "BIKE spotting": ConceptSpotting,
}
__all__ = ["METHODS", "Recipe", "Rival"]
