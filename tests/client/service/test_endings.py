"""What the end of a SuperNode comes to: what the coordinator can mend is waited for, and nothing else."""

from pathlib import Path

import pytest

from client.institution import Institution
from client.keys import generate_node_key, next_key
from client.service import endings
from client.service.endings import Hopeless, Patience
from server.door import authentication

REFUSED = "[code: 2004] Failed to activate SuperNode."


@pytest.fixture
def site(tmp_path: Path) -> Institution:
    generate_node_key(tmp_path / "node.key")
    values = {"name": "hospital", "data": {"clauses": {"train": "clauses.jsonl"}}}
    return Institution.model_validate(values | {"identity": {"key": tmp_path / "node.key"}})


def test_both_sides_have_the_same_words() -> None:
    assert (endings.NOT_ENROLLED, endings.REVOKED) == (authentication.NOT_ENROLLED, authentication.REVOKED)


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        (f"{REFUSED} {endings.NOT_ENROLLED}", "it is not enrolled"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired (_ssl.c:1)", "expired"),
        ("SSL/TLS handshake error", "does not speak TLS"),
        ("Exit Code: 606", "same version"),
    ],
)
def test_what_a_coordinator_can_mend_is_waited_for(site: Institution, tail: str, words: str) -> None:
    assert Hopeless(site, 1)(1, tail) is None
    assert words in str(Patience(site)(1, tail))


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        (f"{REFUSED} {endings.REVOKED}", "revoked"),
        ("address already in use", "runtime.port"),
        ("Exit Code: 600", "host:port"),
    ],
)
def test_what_nobody_else_can_mend_ends_the_daemon(site: Institution, tail: str, words: str) -> None:
    assert words in str(Hopeless(site, 1)(1, tail))
    assert Patience(site)(1, tail) is None


def test_a_site_that_was_killed_is_waited_for_in_silence_and_then_another_is_suspected(
    site: Institution, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience = Patience(site)
    assert patience(1, REFUSED) is None
    monkeypatch.setattr(endings, "STALE_SECONDS", -1.0)
    assert "another process with the key" in str(patience(1, REFUSED))


def test_a_key_that_is_being_replaced_or_was_is_not_the_end(site: Institution, tmp_path: Path) -> None:
    hopeless, tail = Hopeless(site, 1), f"{REFUSED} {endings.REVOKED}"
    following = next_key(site.identity.key)
    generate_node_key(following)
    assert hopeless(1, tail) is None
    following.replace(site.identity.key)
    assert hopeless(1, tail) is None
    assert "revoked" in str(hopeless(1, tail))
