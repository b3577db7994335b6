"""Files that people write may begin with a byte order mark, as editors and spreadsheets on Windows write it."""

import codecs
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client import keys
from client.data.augmentation import read_synonyms
from client.data.readers.options import SUFFIXES
from client.data.sources import read_rows
from client.institution import Institution, Server, load_institution
from client.keys import generate_node_key
from client.service.daemon import check_certificate
from server.enrolment.authority import create_authority
from server.enrolment.keys import read_public_key
from shared.config import read_toml


def public_key(folder: Path) -> bytes:
    generate_node_key(folder / "node.key")
    return (folder / "node.pub").read_bytes()


def check_ca(path: Path) -> None:
    site = Institution.model_validate({"name": "a", "data": {"t": {"train": "t.csv"}}})
    check_certificate(site.model_copy(update={"server": Server(ca=path)}))


def institution(path: Path) -> Any:
    return load_institution(path).data["t"].train.name


READERS: dict[str, tuple[Callable[[Path], bytes], Callable[[Path], Any]]] = {
    "a.toml": (lambda _: b'name = "x"\r\n', read_toml),
    "institution.toml": (lambda _: b'name = "a"\n[data.t]\ntrain = "t.csv"\n', institution),
    "a.jsonl": (lambda _: b'{"text": "x"}\r\n{"text": "y"}\n', lambda path: list(read_rows(path))),
    "a.csv": (lambda _: b"text,label\r\nx,y\r\n", lambda path: list(read_rows(path))),
    "a.json": (lambda _: b'[{"text": "x"}, {"text": "y"}]', lambda path: list(read_rows(path))),
    "a.tsv": (lambda _: b"text\tlabel\r\nx\ty\r\n", lambda path: list(read_rows(path))),
    "a.conll": (lambda _: b"He O\r\nleft O\r\n\r\n", lambda path: list(read_rows(path))),
    "synonyms.json": (lambda _: b'{"pain": ["ache"]}', read_synonyms),
    "node.pub at the coordinator": (public_key, read_public_key),
    "node.pub": (public_key, lambda path: keys.fingerprint(keys.read_public_key(path))),
    "ca.crt": (lambda _: create_authority().certificate, check_ca),
}


@pytest.mark.parametrize("name", READERS)
def test_a_mark_is_passed_over(tmp_path: Path, name: str) -> None:
    write, read = READERS[name]
    content = write(tmp_path)
    results = []
    for mark in (b"", codecs.BOM_UTF8):
        path = tmp_path / f"{len(mark)}-{name}"
        path.write_bytes(mark + content)
        results.append(read(path))
    assert results[0] == results[1]


def test_also_in_compressed_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(codecs.BOM_UTF8 + b'{"text": "x"}\n'))
    assert list(read_rows(path)) == [(1, {"text": "x"})]


def test_every_format_of_text_is_here() -> None:
    known = {".jsonl", ".json", ".csv", ".tsv", ".parquet", ".sql", ".conll", ".conllu", ".iob", ".iob2"}
    assert {suffix.removesuffix(".gz") for suffix in SUFFIXES} == known, "another format of text needs a row above"
