"""Other methods on FlowCLIP's stored features: what a user would pick instead, under equal conditions.

A new method is one file with a subclass of `Rival`, and one entry here. Nothing here imports torch: the
command line lists methods without it.
"""

from flowclip_kit.rivals.recipes import Method, Recipe

_HERE = "flowclip_kit.rivals"
_ACTIONCLIP = Recipe(lr=5e-5, batch=64, epochs=50, optimiser="adamw", weight_decay=0.2, warm_up=5 / 50)

METHODS: dict[str, Method] = {
    "linear probe": Method(
        f"{_HERE}.linear_probe:LinearProbe",
        Recipe(lr=0.1, batch=256, epochs=300, warm_up=1 / 300, warm_up_lr=1e-5),
    ),
    "Tip-Adapter-F": Method(
        f"{_HERE}.tip_adapter:TipAdapterF",
        Recipe(lr=0.001, batch=256, epochs=20, optimiser="adamw", weight_decay=0.01),
    ),
    "CoOp": Method(
        f"{_HERE}.coop:CoOp",
        Recipe(lr=0.002, batch=32, epochs=200, weight_decay=5e-4, warm_up=1 / 200, warm_up_lr=1e-5),
        unseen=True,
        fewer=((2, 50), (8, 100)),
    ),
    "CoCoOp": Method(
        f"{_HERE}.cocoop:CoCoOp",
        Recipe(lr=0.002, batch=1, epochs=10, weight_decay=5e-4, warm_up=1 / 10, warm_up_lr=1e-5),
        unseen=True,
    ),
    "Ju et al.": Method(
        f"{_HERE}.ju:Ju",
        Recipe(lr=0.0001, batch=64, epochs=50, optimiser="adamw", weight_decay=0.01),
        frames=16,
        unseen=True,
    ),
    "ActionCLIP Transf": Method(f"{_HERE}.actionclip:Transf", _ACTIONCLIP),
    "ActionCLIP LSTM": Method(f"{_HERE}.actionclip:LSTM", _ACTIONCLIP),
    "X-CLIP head": Method(
        f"{_HERE}.xclip:XCLIP",
        Recipe(
            lr=8e-5, batch=8, epochs=50, optimiser="adamw", weight_decay=0.001, warm_up=5 / 50, smoothing=0.1
        ),
        unseen=True,
    ),
    "BIKE spotting": Method(f"{_HERE}.bike:ConceptSpotting", unseen=True),
}
__all__ = ["METHODS", "Method", "Recipe"]
