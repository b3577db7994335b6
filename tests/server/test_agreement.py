"""An agreement that is offered: who has approved it, and that no run begins before all have."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server import agreement
from server.agreement import Offers, agreement_for_run, extend, offered, propose, standing, withdraw, words
from server.home import ServerHome
from shared.errors import ConfigError, ProtocolError
from shared.federation import Federation, federation_toml, load_federation
from shared.federation.offers import LONGEST, Word, read_offer, read_word, write_offer


@pytest.fixture
def current(home: ServerHome, tiny_federation: Callable[..., Federation]) -> Federation:
    federation = tiny_federation(("hospital", "bank"))
    home.federation_file.write_text(federation_toml(federation), encoding="utf-8")
    return federation


@pytest.fixture
def next_file(tmp_path: Path, current: Federation) -> Path:
    """The agreement with a third institution, and a comment."""
    values = current.model_dump(mode="json", exclude_none=True)
    values["rounds"]["institutions"] = ["hospital", "bank", "clinic"]
    file = tmp_path / "next.toml"
    file.write_text("# as discussed\n" + federation_toml(Federation.model_validate(values)), encoding="utf-8")
    return file


def say(home: ServerHome, name: str, *approved: str, declined: str | None = None, holds: str | None = None) -> Any:
    return Offers(home).hear(name, Word(approved=approved, declined=declined, holds=holds), "signed")


def test_a_run_begins_once_all_that_are_named_have_approved(
    home: ServerHome, current: Federation, next_file: Path
) -> None:
    assert agreement_for_run(home) == current
    digest, changes = propose(home, next_file)
    assert changes == ["institution 'clinic' joins"]
    say(home, "hospital", current.digest, digest)
    say(home, "bank", current.digest, declined=digest)
    found = standing(home, load_federation(next_file))
    assert (found.approved, found.declined, found.silent) == (("hospital",), ("bank",), ("clinic",))
    with pytest.raises(ConfigError, match=r"approved it, but clinic not yet; bank declined; wait for them"):
        agreement_for_run(home)
    assert load_federation(home.federation_file) == current
    say(home, "clinic", digest)
    say(home, "bank", digest)
    assert agreement_for_run(home).digest == digest
    assert home.federation_file.read_text().startswith("# as discussed"), "as it was written"
    assert offered(home) is None
    assert agreement_for_run(home).digest == digest


def test_what_an_institution_says_counts_for_itself_alone(
    home: ServerHome, current: Federation, next_file: Path
) -> None:
    digest, _ = propose(home, next_file)
    say(home, "hospital", digest)
    say(home, "stranger", digest)
    assert standing(home, load_federation(next_file)).approved == ("hospital",)
    say(home, "hospital", current.digest)
    assert standing(home, load_federation(next_file)).approved == (), "the last word counts"
    record = json.loads((home.state / "agreement" / "words" / "hospital.json").read_text())
    assert record["signature"] == "signed"
    assert words(home)["hospital"].approved == (current.digest,)


def test_an_institution_gets_what_it_does_not_hold(home: ServerHome, current: Federation, next_file: Path) -> None:
    assert say(home, "hospital", current.digest, holds=current.digest) == {"offered": current.digest}
    digest, _ = propose(home, next_file)
    answer = say(home, "hospital", current.digest)
    assert read_offer(json.dumps(answer).encode()) == (digest, load_federation(next_file))
    assert say(home, "hospital", current.digest, holds=digest) == {"offered": digest}
    withdraw(home)
    answer = say(home, "hospital", current.digest)
    assert read_offer(json.dumps(answer).encode()) == (current.digest, current), "the folder's own, as it may be edited"
    with pytest.raises(ConfigError, match="there is none"):
        withdraw(home)


def test_whom_the_agreement_does_not_name_hears_nothing_of_it(home: ServerHome, current: Federation) -> None:
    assert Offers(home).current("hospital") == current
    assert Offers(home).current("stranger") is None
    assert Offers(home).current("") is None, "an enrolled node without a name"
    assert say(home, "stranger") == {"offered": None}


def test_the_door_notices_another_file(home: ServerHome, current: Federation, next_file: Path) -> None:
    offers = Offers(home)
    assert offers.current("hospital") == current
    propose(home, next_file)
    first = offers.current("hospital")
    assert first is not None
    assert offers.current("hospital") is first, "read once"
    extend(home, 3)
    assert (second := offers.current("hospital")) is not None
    assert second.rounds.count == current.rounds.count + 3
    (home.state / "agreement" / "offered.toml").write_text("nonsense")
    assert offers.current("hospital") is None


def test_nothing_new_and_nothing_wrong_is_offered(home: ServerHome, current: Federation, tmp_path: Path) -> None:
    (same := tmp_path / "same.toml").write_text("# but a comment\n" + federation_toml(current))
    with pytest.raises(ConfigError, match="has the same digest"):
        propose(home, same)
    same.write_text("name = 3")
    with pytest.raises(ConfigError, match="name"):
        propose(home, same)
    with pytest.raises(ConfigError, match=r"rounds\.count"):
        extend(home, 100_000)
    assert offered(home) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'{"offered": 3}',
        b'{"agreement": {}}',
        b'{"offered": "' + b"0" * 64 + b'", "agreement": {"name": "x"}}',
        b"[" * 100_000,
        b'{"offered": null, "x": "' + b"a" * LONGEST + b'"}',
    ],
)
def test_an_answer_that_is_none_is_refused(body: bytes) -> None:
    if body == b'{"offered": 3}':
        assert read_offer(body) == (None, None)
        return
    with pytest.raises(ProtocolError):
        read_offer(body)


def test_a_digest_that_is_not_the_files_own_is_refused(current: Federation) -> None:
    answer = write_offer(current, held=None) | {"offered": "0" * 64}
    with pytest.raises(ProtocolError, match="a digest that is not its own"):
        read_offer(json.dumps(answer).encode())


WORDS = [b"", b"{", b'{"approved": ["x"]}', b'{"approved": 1}', b'{"more": 1}', b'{"declined": "' + b"G" * 64 + b'"}']


@pytest.mark.parametrize("body", WORDS)
def test_a_word_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_word(body)


def test_the_agreements_folder_is_private(home: ServerHome, current: Federation, next_file: Path) -> None:
    propose(home, next_file)
    assert (home.state / agreement.FOLDER).stat().st_mode & 0o077 == 0
