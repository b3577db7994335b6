"""From a bundle's folder to a model that answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from shared.adapter import ADAPTER, HEAD, set_state
from shared.bundle import Bundle, is_optimized, load_bundle
from shared.bundle.optimized import MODEL, Optimized, load_optimized
from shared.errors import ConfigError
from shared.inference import encoder, tokenizer
from shared.inference.encoder import Backbone, LightEncoder
from shared.inference.model import ReleasedModel
from shared.inference.optimized import open_parts
from shared.inference.tokenizer import LightTokenizer
from shared.model.backbone import agreed
from shared.tasks import build_task
from shared.tasks.heads import build_head

Shelf = dict[tuple[str, torch.dtype, str], tuple[Backbone, LightTokenizer]]
"""Backbones that are open, by fingerprint, dtype and device, so that bundles over the same one share it."""


def open_model(
    folder: Path,
    *,
    backbone: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    shelf: Shelf | None = None,
) -> ReleasedModel:
    """Load a bundle to predict with.

    Args:
        folder: That `collegium server release`, `collegium client bundle` or `collegium optimize` wrote.
        backbone: Where its BERT is, if not as named there; an optimized bundle has its own.
        dtype: Of the encoder's products, unless it was optimized to int8 or for ONNX Runtime; heads compute in float32.
        device: Where to compute; these two do so on the CPU.
        shelf: Backbones that are open already; this one is put beside them.

    Raises:
        BackboneError: The backbone is missing or is not the agreed one.
        BundleError: The model of an optimized bundle is not as it was made.
        ConfigError: The folder is no bundle, or one without heads.
    """
    about: Optimized | None
    bundle, about = load_optimized(folder) if is_optimized(folder) else (load_bundle(folder), None)
    if not bundle.tasks:
        raise ConfigError(
            f"Expected a bundle with task heads in {folder}, but every institution of this federation keeps its heads "
            "at home; predict with one that an institution has written by `collegium client bundle`."
        )
    if about:
        where = "cpu" if about.int8 or about.runtime == "onnx" else device
        return _model(bundle, *open_parts(folder / MODEL, about, dtype, where), where)
    agreement = bundle.federation.backbone
    key = agreement.sha256, dtype, device
    shelf = {} if shelf is None else shelf
    if key not in shelf:
        with agreed(backbone or agreement.name, agreement.sha256) as seen:
            if not (encoder.is_known(seen) and tokenizer.is_known(seen)):
                return _by_transformers(bundle, backbone, dtype, device)
            shelf[key] = Backbone(seen, dtype, device), LightTokenizer(seen)
    frozen, words = shelf[key]
    named = ((name.removeprefix(ADAPTER), array) for name, array in bundle.arrays.items() if name.startswith(ADAPTER))
    light = LightEncoder(frozen, encoder.factors_of(bundle.adapter, named))
    return _model(bundle, light, words, light.words, device)


def _model(
    bundle: Bundle, encode: Callable[..., torch.Tensor], words: Any, embeddings: torch.Tensor, device: str
) -> ReleasedModel:
    """Heads over an encoder."""
    tasks, heads = {}, {}
    for name in bundle.tasks:
        tasks[name] = build_task(name, bundle.federation.tasks[name]).calibrated(bundle.settings.get(name, {}))
        prefix = f"{HEAD}{name}/"
        arrays = {key.removeprefix(prefix): value for key, value in bundle.arrays.items() if key.startswith(prefix)}
        head = build_head(tasks[name], embeddings, 0.0).eval().requires_grad_(False)
        try:
            head.load_state_dict({key: torch.from_numpy(value) for key, value in arrays.items()})
        except RuntimeError as error:
            raise ConfigError(f"Expected the head of {name} as the agreement has it, but {error}.") from None
        heads[name] = head.to(device)
    return ReleasedModel(bundle.federation, words, tasks, heads, encode, torch.device(device))


def _by_transformers(bundle: Bundle, backbone: str | None, dtype: torch.dtype, device: str) -> ReleasedModel:
    """A backbone that is not known here, as it was trained."""
    from shared.model.multitask import build_model

    model = build_model(bundle.federation, backbone=backbone, released=bundle.peft)
    set_state(model, bundle.arrays)
    model.eval().to(device)

    def encode(ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            return model.states(ids, mask, types).float()

    embeddings: Any = model.encoder.get_base_model().embeddings
    return _model(bundle, encode, model.tokenizer, embeddings.word_embeddings.weight, device)
