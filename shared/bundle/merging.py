"""A released adapter merged into its BERT: a plain `BertModel`, for whoever has neither peft nor Collegium."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from shared.adapter import ADAPTER
from shared.bundle.folder import Bundle, load_bundle
from shared.errors import ConfigError, StoreError, listed
from shared.model.backbone import load_plain, quiet

if TYPE_CHECKING:
    from transformers import BertModel, PreTrainedTokenizerFast


def merge_bundle(folder: Path, out: Path, backbone: str | None = None) -> Path:
    """Write the merged BERT and its tokenizer to a new folder, as `BertModel.from_pretrained` and `AutoTokenizer` read.

    Args:
        folder: The bundle.
        out: To make; it appears whole or not at all.
        backbone: Where the bundle's BERT is, if not as named there.

    Raises:
        ConfigError: The folder exists, or the bundle cannot be read.
        BackboneError: The BERT is missing, or is not the one that was agreed on.
        StoreError: The disk refuses.
    """
    if out.exists():
        raise ConfigError(f"Expected a new folder for the merged model, but {out} exists; name another.")
    bert, tokenizer = merged(load_bundle(folder), backbone)
    building = out.with_name(f".{out.name}.part")
    try:
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        with quiet():  # without a bar
            bert.save_pretrained(building)
            tokenizer.save_pretrained(building)
        building.replace(out)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"Could not write the merged model {out}: {error}; make room and merge again.") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return out


def merged(bundle: Bundle, backbone: str | None = None) -> "tuple[BertModel, PreTrainedTokenizerFast]":
    """A bundle's BERT, W + scale B A in the place of each adapted W, float32, in evaluation mode; and its tokenizer.

    Raises:
        BackboneError: The BERT is missing, or is not the one that was agreed on.
        ConfigError: The adapter does not fit it.
    """
    import torch
    from peft import set_peft_model_state_dict

    from shared.model.lora import adapt

    agreed = bundle.federation.backbone
    bert, tokenizer = load_plain(backbone or agreed.name, agreed.sha256)
    model = adapt(bert, bundle.peft)
    factors = {n.removeprefix(ADAPTER): torch.tensor(a) for n, a in bundle.arrays.items() if n.startswith(ADAPTER)}
    try:
        left: Any = set_peft_model_state_dict(model, factors)
    except RuntimeError as error:  # torch's, of a shape
        raise ConfigError(f"Expected an adapter that fits {agreed.name}, but it does not: {error}.") from None
    lacking = [name for name in left.missing_keys if ".lora_" in name]
    if wrong := [*left.unexpected_keys, *lacking]:
        raise ConfigError(f"Expected the adapter of {agreed.name}, whole, but {listed(wrong)} differ.")
    plain: BertModel = model.merge_and_unload(safe_merge=True)
    plain.train(False)
    return plain, tokenizer
