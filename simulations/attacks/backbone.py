"""Somebody changes what the backbone's folder holds, and its fingerprint does not notice."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import BertModel

from shared.errors import BackboneError
from shared.model.backbone import fingerprint, load_backbone
from simulations.attacks import Attack, Outcome
from simulations.attacks.stage import write_tiny_bert

TEXT = "The patient takes 200 mg of aspirin daily."
Change = Callable[[Path], None]


class _Planted:
    """Leaves a mark where a pickle of it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.mark,)


def change_what_counts(folder: Path) -> Outcome:
    """Change a file after the agreement; it succeeds if the backbone loads, and gives something else than agreed."""
    changes = (_swap_words, _lower_no_more, _other_unknown, _add_a_token, _change_a_shard, _another_index)
    return _outcome([_differs(folder / change.__name__, change) for change in changes], changes)


def run_code(folder: Path) -> Outcome:
    """Have code run when a backbone is opened; it succeeds if it does, or if a folder with pickled weights is taken."""
    made = []
    for name in ("only a pickle", "a pickle beside safetensors", "auto_map"):
        place = folder / name
        place.mkdir()
        write_tiny_bert(place)
        mark = place / "mark"
        if name == "auto_map":
            (place / "planted.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n")
            _edit(place / "config.json", lambda values: values | {"auto_map": {"AutoConfig": "planted.Config"}})
        else:
            (place / "pytorch_model.bin").write_bytes(pickle.dumps(_Planted(mark)))
            if name == "only a pickle":
                (place / "model.safetensors").unlink()
        made.append((place, mark))
    return Outcome(len(made), sum(_is_taken_or_runs(place, mark) for place, mark in made))


def _is_taken_or_runs(place: Path, mark: Path) -> bool:
    try:
        sha256 = fingerprint(place)
        if "beside" not in place.name:
            return True  # such a folder must have no fingerprint that anybody could agree on
        load_backbone(str(place), sha256)
    except BackboneError:
        return mark.exists()
    return mark.exists()


def _differs(place: Path, change: Change) -> bool:
    """Whether a changed backbone loads under the old fingerprint with other states, or other sub-tokens."""
    place.mkdir()
    write_tiny_bert(place)
    if change in (_change_a_shard, _another_index):
        model = BertModel.from_pretrained(place, add_pooling_layer=False)
        (place / "model.safetensors").unlink()
        model.save_pretrained(place, max_shard_size="2MB")
        (place / "pytorch_model.bin").write_bytes(b"what a fingerprint may take for the weights")
    agreed = fingerprint(place)
    before = _seen(place, agreed)
    change(place)
    try:
        return not torch.equal(before, _seen(place, agreed))
    except BackboneError:
        return False


def _seen(place: Path, sha256: str) -> torch.Tensor:
    """Sub-tokens of a text and the encoder's states of them, in one row."""
    loaded = load_backbone(str(place), sha256)
    ids = loaded.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        known = ids.clamp(max=loaded.encoder.config.vocab_size - 1)
        return torch.cat([ids.double().ravel(), loaded.encoder(input_ids=known).last_hidden_state.double().ravel()])


def _edit(file: Path, change: Callable[[dict[str, object]], dict[str, object]]) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text(encoding="utf-8")))), encoding="utf-8")


def _swap_words(place: Path) -> None:
    """Another id for a drug, in tokenizer.json beside an unchanged vocab.txt."""
    content = json.loads((place / "tokenizer.json").read_text(encoding="utf-8"))
    words = content["model"]["vocab"]
    words["patient"], words["daily"] = words["daily"], words["patient"]
    (place / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


def _lower_no_more(place: Path) -> None:
    _edit(place / "tokenizer_config.json", lambda values: values | {"do_lower_case": False})


def _other_unknown(place: Path) -> None:
    _edit(place / "special_tokens_map.json", lambda values: values | {"cls_token": "[SEP]", "sep_token": "[CLS]"})


def _add_a_token(place: Path) -> None:
    (place / "added_tokens.json").write_text(json.dumps({"aspirin": 5}), encoding="utf-8")


def _change_a_shard(place: Path) -> None:
    """Other weights in the second of several files."""
    last = sorted(place.glob("model-*.safetensors"))[-1]
    content = bytearray(last.read_bytes())
    content[-1024:] = bytes(1024)
    last.write_bytes(content)


def _another_index(place: Path) -> None:
    """All weights from a file that was not there."""
    other = sorted(place.glob("model-*.safetensors"))[-1]
    shutil.copy(other, place / "model-other.safetensors")
    content = bytearray((place / "model-other.safetensors").read_bytes())
    content[-1024:] = bytes(1024)
    (place / "model-other.safetensors").write_bytes(content)
    index = place / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(other.name, "model-other.safetensors"))


def _outcome(succeeded: list[bool], changes: tuple[Change, ...]) -> Outcome:
    names = [
        change.__name__.strip("_").replace("_", " ") for change, did in zip(changes, succeeded, strict=True) if did
    ]
    return Outcome(len(succeeded), len(names), ", ".join(names))


PROMISE = "the fingerprint covers every file of the backbone that is loaded, nothing else is loaded, and no code is run"
ATTACKS = (
    Attack(
        "a changed tokenizer or a changed shard of the weights",
        "whoever provides the model files",
        PROMISE,
        change_what_counts,
    ),
    Attack("code that comes with the backbone", "whoever provides the model files", PROMISE, run_code),
)
