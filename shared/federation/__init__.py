"""The federation file: everything that coordinator and institutions must agree on before a run."""

from shared.federation.agreement import Federation, federation_toml, load_federation
from shared.federation.encoder import TARGET_PRESETS, Adapter, Backbone
from shared.federation.protection import EVALUATION_CLIP, Privacy, SecureAggregation
from shared.federation.release import Release
from shared.federation.rounds import Personal, Robust, Rounds, ServerOptimizer, Weighting, Wire
from shared.federation.training import Training

__all__ = [
    "EVALUATION_CLIP",
    "TARGET_PRESETS",
    "Adapter",
    "Backbone",
    "Federation",
    "Personal",
    "Privacy",
    "Release",
    "Robust",
    "Rounds",
    "SecureAggregation",
    "ServerOptimizer",
    "Training",
    "Weighting",
    "Wire",
    "federation_toml",
    "load_federation",
]
