"""The receipts: signed, chained, and whole; whatever is done to the log is found and named."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from client.keys import generate_node_key, read_public_key
from client.leaving import receipts
from client.leaving.receipts import Receipts, Release, heads, verify
from client.site import NO_RECEIPT, Site
from shared.errors import EnrolmentError, StoreError
from shared.protocol import QueryRequest, Refusal

RELEASE = Release(
    kind="train",
    sha256="ab" * 32,
    bytes=1000,
    norm=0.5,
    body='{"round": 1}',
    federation="cd" * 32,
    run="7",
    round=1,
    tasks=("clauses",),
    epsilon=None,
    ledger=None,
)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "node.key"
    generate_node_key(path)
    return path


@pytest.fixture
def public(key: Path) -> list[ec.EllipticCurvePublicKey]:
    return [read_public_key(key.with_suffix(".pub"))]


@pytest.fixture
def state(tmp_path: Path, key: Path) -> Path:
    """A state folder with five receipts, written by two processes in turn."""
    folder = tmp_path / "state"
    first = Receipts(folder, key)
    for number in range(3):
        first.append(with_(round=number))
    second = Receipts(folder, key)
    second.append(with_(kind="query", norm=None, round=None))
    first.append(with_(round=4, ledger=(2, "ee" * 32), epsilon=0.75))
    return folder


def with_(**changes: Any) -> Release:
    return Release(**(vars(RELEASE) | changes))


def lines_of(state: Path) -> list[bytes]:
    return (state / receipts.FILE).read_bytes().splitlines(keepends=True)


def put(state: Path, lines: list[bytes]) -> None:
    (state / receipts.FILE).write_bytes(b"".join(lines))


def test_they_verify_with_the_public_key_and_say_what_was_told(
    state: Path, public: list[ec.EllipticCurvePublicKey], key: Path
) -> None:
    found = verify(state, public)
    assert [receipt["sequence"] for receipt in found] == [1, 2, 3, 4, 5]
    assert {name: found[0][name] for name in ("kind", "sha256", "bytes", "norm", "run", "round", "tasks")} == {
        "kind": "train",
        "sha256": "ab" * 32,
        "bytes": 1000,
        "norm": 0.5,
        "run": "7",
        "round": 0,
        "tasks": ["clauses"],
    }
    printed = subprocess.run(["ssh-keygen", "-lf", key.with_suffix(".pub")], capture_output=True, text=True)
    if printed.returncode == 0:
        assert found[0]["key"] == printed.stdout.split()[1]


@pytest.mark.parametrize("number", range(5))
def test_a_deleted_line_is_found(state: Path, public: list[ec.EllipticCurvePublicKey], number: int) -> None:
    lines = lines_of(state)
    put(state, lines[:number] + lines[number + 1 :])
    with pytest.raises(StoreError, match=f"Receipt {number + 1} " if number < 4 else "have been removed"):
        verify(state, public)


@pytest.mark.parametrize("number", range(4))
def test_reordered_lines_are_found(state: Path, public: list[ec.EllipticCurvePublicKey], number: int) -> None:
    lines = lines_of(state)
    lines[number], lines[number + 1] = lines[number + 1], lines[number]
    put(state, lines)
    with pytest.raises(StoreError, match=f"Receipt {number + 1} "):
        verify(state, public)


def test_a_line_of_another_past_is_found(
    state: Path, key: Path, public: list[ec.EllipticCurvePublicKey], tmp_path: Path
) -> None:
    """A log restored from a backup and gone on with has lines of the same number and key, all well signed."""
    other = Receipts(tmp_path / "other", key)
    for _ in range(5):
        other.append(RELEASE)
    put(state, [*lines_of(state)[:2], *lines_of(tmp_path / "other")[2:]])
    (state / receipts.HEAD_FILE).write_bytes((tmp_path / "other" / receipts.HEAD_FILE).read_bytes())
    with pytest.raises(StoreError, match=r"Receipt 3 .* does not follow"):
        verify(state, public)


def test_white_space_is_an_edit_of_that_line(state: Path, public: list[ec.EllipticCurvePublicKey]) -> None:
    lines = lines_of(state)
    lines[1] = lines[1].replace(b",", b", ", 1)
    put(state, lines)
    with pytest.raises(StoreError, match=r"Receipt 2 .* not what was signed"):
        verify(state, public)


def test_a_repeated_line_is_found(state: Path, public: list[ec.EllipticCurvePublicKey]) -> None:
    lines = lines_of(state)
    put(state, [*lines, lines[-1]])
    with pytest.raises(StoreError, match="Receipt 6 "):
        verify(state, public)


def test_any_edited_byte_is_found(state: Path, public: list[ec.EllipticCurvePublicKey]) -> None:
    content = (state / receipts.FILE).read_bytes()
    first = content.index(b"\n") + 1
    for at in [*range(0, first, 7), first - 2, first - 1, len(content) - 2]:
        for edited in {content[at] ^ 1, 0x20} - {content[at]}:
            (state / receipts.FILE).write_bytes(content[:at] + bytes([edited]) + content[at + 1 :])
            with pytest.raises(StoreError):
                verify(state, public)


def test_a_line_signed_with_another_key_is_found(
    state: Path, public: list[ec.EllipticCurvePublicKey], tmp_path: Path
) -> None:
    generate_node_key(tmp_path / "other.key")
    Receipts(state, tmp_path / "other.key").append(RELEASE)
    with pytest.raises(StoreError, match=r"Receipt 6 .* another key"):
        verify(state, public)
    assert len(verify(state, [*public, read_public_key(tmp_path / "other.pub")])) == 6
    forged = json.loads(lines_of(state)[5]) | {"key": json.loads(lines_of(state)[0])["key"]}
    put(state, [*lines_of(state)[:5], json.dumps(forged, sort_keys=True, separators=(",", ":")).encode() + b"\n"])
    with pytest.raises(StoreError, match=r"Receipt 6 .* not what was signed"):
        verify(state, public)


def test_a_forged_signature_is_found(state: Path, public: list[ec.EllipticCurvePublicKey]) -> None:
    lines = lines_of(state)
    last = json.loads(lines[-1]) | {"signature": base64.b64encode(b"x" * 100).decode()}
    put(state, [*lines[:-1], json.dumps(last, sort_keys=True, separators=(",", ":")).encode() + b"\n"])
    with pytest.raises(StoreError, match="Receipt 5 "):
        verify(state, public)


@pytest.mark.parametrize("damage", ["cut", "head", "gone"])
def test_nothing_is_appended_to_a_log_that_is_not_as_it_was_left(state: Path, key: Path, damage: str) -> None:
    if damage == "cut":
        put(state, lines_of(state)[:-1])
    elif damage == "head":
        (state / receipts.HEAD_FILE).unlink()
    else:
        (state / receipts.FILE).unlink()
    with pytest.raises(StoreError, match="ends otherwise"):
        Receipts(state, key)


def test_what_a_crash_left_unfinished_is_cut_off(
    state: Path, key: Path, public: list[ec.EllipticCurvePublicKey]
) -> None:
    with (state / receipts.FILE).open("ab") as file:
        file.write(b'{"sequence": 6, "hal')
    assert len(verify(state, public)) == 5
    Receipts(state, key).append(RELEASE)
    assert len(verify(state, public)) == 6


def test_a_crash_between_the_line_and_the_head_loses_nothing(
    state: Path, key: Path, public: list[ec.EllipticCurvePublicKey]
) -> None:
    before = (state / receipts.HEAD_FILE).read_bytes()
    log = Receipts(state, key)
    log.append(RELEASE)
    (state / receipts.HEAD_FILE).write_bytes(before)
    assert len(verify(state, public)) == 6
    log.append(RELEASE)
    assert len(verify(state, public)) == 7


def test_processes_write_in_turn(tmp_path: Path, key: Path, public: list[ec.EllipticCurvePublicKey]) -> None:
    folder, count = tmp_path / "state", 25
    program = (
        "import sys; from pathlib import Path; from client.leaving.receipts import Receipts, Release\n"
        f"r = Receipts(Path({str(folder)!r}), Path({str(key)!r}))\n"
        f"for n in range({count}): r.append(Release('query', 'a', n, None, '', 'd', None, None, (), None, None))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    while any(process.poll() is None for process in processes):
        verify(folder, public)  # the log is whole at any time
    assert [process.wait(60) for process in processes] == [0, 0]
    assert len(verify(folder, public)) == 2 * count


def test_the_ledgers_heads_are_named_once_in_order(state: Path, key: Path) -> None:
    log = Receipts(state, key)
    log.append(with_(ledger=(2, "ee" * 32)))
    log.append(with_(ledger=(4, "ff" * 32)))
    assert heads(state) == [(2, "ee" * 32), (4, "ff" * 32)]
    assert heads(state / "nowhere") == []


def test_a_key_that_cannot_sign_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EnrolmentError, match="keygen"):
        Receipts(tmp_path / "state", tmp_path / "absent.key")


def test_every_reply_leaves_a_receipt_and_none_leaves_without(
    make_site: Callable[..., Site], tmp_path: Path, key: Path, public: list[ec.EllipticCurvePublicKey]
) -> None:
    folder = tmp_path / "receipts"
    bare = make_site("clauses")
    site = Site(**(vars(bare) | {"receipts": Receipts(folder, key)}))
    assert site.answer(QueryRequest(spec_digest=site.federation.digest), run="9") == bare.answer(
        QueryRequest(spec_digest=site.federation.digest)
    )
    site.answer(QueryRequest(spec_digest="f" * 64))
    query, refusal = verify(folder, public)
    assert (query["kind"], query["run"], query["federation"]) == ("query", "9", site.federation.digest)
    assert (refusal["kind"], json.loads(refusal["body"])["kind"]) == ("refusal", "agreement")
    (folder / receipts.HEAD_FILE).unlink()
    reply = site.answer(QueryRequest(spec_digest=site.federation.digest))
    assert reply == Refusal(institution="hospital", kind="failure", reason=NO_RECEIPT)
