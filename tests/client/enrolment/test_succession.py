import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from client.enrolment.succession import FILE, earlier_keys, record_succession
from shared.errors import StoreError


def keys(count: int) -> list[ec.EllipticCurvePrivateKey]:
    return [ec.generate_private_key(ec.SECP384R1()) for _ in range(count)]


def test_every_key_that_signed_its_successor_is_found(tmp_path: Path) -> None:
    first, second, third = keys(3)
    assert earlier_keys(tmp_path, third.public_key()) == []
    record_succession(tmp_path, first, second.public_key())
    record_succession(tmp_path, first, second.public_key())
    record_succession(tmp_path, second, third.public_key())
    assert earlier_keys(tmp_path, third.public_key()) == [second.public_key(), first.public_key()]
    assert earlier_keys(tmp_path, second.public_key()) == [first.public_key()]
    assert len((tmp_path / FILE).read_text().splitlines()) == 2


def test_what_no_key_has_signed_counts_for_nothing(tmp_path: Path) -> None:
    first, second, stranger = keys(3)
    record_succession(tmp_path, stranger, second.public_key())
    entry = json.loads((tmp_path / FILE).read_text())
    honest = tmp_path / "honest"
    record_succession(honest, first, second.public_key())
    forged = json.loads((honest / FILE).read_text()) | {"signature": entry["signature"]}
    (honest / FILE).write_text(json.dumps(forged) + "\n")
    assert earlier_keys(honest, second.public_key()) == []


def test_keys_that_follow_each_other_in_a_circle_end(tmp_path: Path) -> None:
    first, second = keys(2)
    record_succession(tmp_path, first, second.public_key())
    record_succession(tmp_path, second, first.public_key())
    assert earlier_keys(tmp_path, second.public_key()) == [first.public_key(), second.public_key()]


def test_a_broken_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("junk\n")
    with pytest.raises(StoreError, match="a line is none"):
        earlier_keys(tmp_path, keys(1)[0].public_key())
