"""A released bundle: the folder, the signed manifest of its files, consents to it, and the model it amounts to."""

from shared.bundle.folder import (
    ADAPTER_FILE,
    FEDERATION_FILE,
    HEADS_FILE,
    METRICS_FILE,
    OPTIMIZED_FILE,
    PEFT_FILE,
    README_FILE,
    THRESHOLDS_FILE,
    Bundle,
    heads_of,
    is_optimized,
    load_bundle,
    load_metrics,
    write_bundle,
    write_told,
)
from shared.bundle.manifest import Manifest, Verified, is_sealed, release_of, seal, verify_bundle

__all__ = [
    "ADAPTER_FILE",
    "FEDERATION_FILE",
    "HEADS_FILE",
    "METRICS_FILE",
    "OPTIMIZED_FILE",
    "PEFT_FILE",
    "README_FILE",
    "THRESHOLDS_FILE",
    "Bundle",
    "Manifest",
    "Verified",
    "heads_of",
    "is_optimized",
    "is_sealed",
    "load_bundle",
    "load_metrics",
    "release_of",
    "seal",
    "verify_bundle",
    "write_bundle",
    "write_told",
]
