import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from client.keys import generate_node_key
from shared.errors import EnrolmentError


def test_flower_reads_the_pair_and_only_the_owner_the_private_half(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "node.key"
    umask = os.umask(0)
    try:
        generate_node_key(path)
    finally:
        os.umask(umask)
    key = load_ssh_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP384R1)
    public = path.with_suffix(".pub").read_bytes()
    assert load_ssh_public_key(public) == key.public_key()
    assert public.startswith(b"ecdsa-sha2-nistp384 ")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("taken", ["node.key", "node.pub"])
def test_nothing_is_overwritten(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("precious")
    with pytest.raises(EnrolmentError, match=f"{taken}.*never overwritten"):
        generate_node_key(tmp_path / "node.key")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


def test_a_name_for_the_public_half_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnrolmentError, match=r"node\.pub.*choose another name"):
        generate_node_key(tmp_path / "node.pub")
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnrolmentError, match="cannot be written"):
        generate_node_key(tmp_path / "file" / "node.key")
