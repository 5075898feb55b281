"""flowclip: reproduce, question and build on "Seeing in Flowing" (ACM MM 2023).

    from flowclip_core import ModelConfig, FlowCLIP, load_backbone, train, evaluate, classify

The names are imported when they are first used, so that `import flowclip_core` does not wait for torch.
"""

from importlib import import_module

_HOME = {
    "ModelConfig": "flowclip_core.config",
    "TrainConfig": "flowclip_core.config",
    "EvalConfig": "flowclip_core.config",
    "encode_video": "flowclip_core.data.features",
    "train": "flowclip_core.training.loop",
    "evaluate": "flowclip_core.training.loop",
    "FlowCLIP": "flowclip_core.model.flowclip",
    "load_backbone": "flowclip_core.model.backbone",
    "classify": "flowclip_core.predict",
}
__all__ = list(_HOME)
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
