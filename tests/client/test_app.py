"""The ClientApp: it answers for its site, and keeps the site's own troubles at home."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict

from client.app import CANNOT_OPEN, INSTITUTION_VARIABLE, build_app, receipted, site_of_process
from client.keys import generate_node_key, read_public_key
from client.leaving.receipts import FILE, Receipts, verify
from client.leaving.refusals import UNSAID
from client.site import NO_RECEIPT, Site
from shared.errors import ConfigError, DataError
from shared.flower.messages import TaskIdentity
from shared.protocol import QueryReply, QueryRequest, Refusal, body_of, decode, encode

CONTEXT = Context(run_id=1, node_id=7, node_config={}, state=RecordDict(), run_config={})


@pytest.fixture(autouse=True)
def identity() -> None:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1


def ask(site_of: Callable[[Context], Site], digest: str = "d" * 64) -> Message:
    message = Message(encode(QueryRequest(spec_digest=digest)), 7, "query")
    message.metadata.__dict__["_message_id"] = "m"
    return build_app(site_of)(message, CONTEXT)


def test_it_answers_for_its_site(make_site: Callable[..., Site]) -> None:
    site = make_site("clauses")
    reply = decode(ask(lambda _: site, site.federation.digest).content, QueryReply)
    assert reply.institution == "hospital"


def test_what_is_wrong_at_home_stays_at_home(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Context) -> Site:
        raise DataError("/srv/patients/notes.jsonl, line 3: label 'Mrs Example has gout' is not among them.")

    reply = decode(ask(broken).content, Refusal)
    assert reply.kind == "failure"
    assert "patients" not in reply.reason
    assert "gout" not in reply.reason
    assert any("this site cannot answer" in message for message in caplog.messages)
    assert not any("gout" in message for message in caplog.messages), "its log is read by more people than its records"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "node.key"
    generate_node_key(path)
    return path


def test_whatever_goes_wrong_is_a_refusal_that_quotes_nothing_and_has_a_receipt(
    make_site: Callable[..., Site], tmp_path: Path, key: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Before, only errors that Collegium raises itself were caught; any other left as Flower's, without a receipt."""
    state = tmp_path / "receipts"
    site = dataclasses.replace(make_site("clauses"), receipts=Receipts(state, key))
    for kind in (ValueError, KeyError, RuntimeError, MemoryError, RecursionError, UnicodeError):
        with pytest.MonkeyPatch.context() as patch:

            def broken(*_: object, error: type[Exception] = kind) -> None:
                raise error("the record of patient Jane Example")

            patch.setattr("client.site.describe", broken)
            reply = decode(ask(lambda _: site, site.federation.digest).content, Refusal)
        assert (reply.kind, reply.reason) == ("failure", UNSAID)
        last = verify(state, [read_public_key(key)])[-1]
        assert (last["kind"], last["body"]) == ("refusal", body_of(reply))
    assert not any("Jane Example" in message for message in caplog.messages)


def test_an_error_of_flowers_has_a_receipt(make_site: Callable[..., Site], tmp_path: Path, key: Path) -> None:
    state = tmp_path / "receipts"
    site = dataclasses.replace(make_site("clauses"), receipts=Receipts(state, key))
    assert receipted(site, "stopped", "7") == "stopped"
    (receipt,) = verify(state, [read_public_key(key)])
    assert [receipt[name] for name in ("kind", "run", "body")] == ["error", "7", '{"error": "stopped"}']
    (state / FILE).write_text("junk")
    assert receipted(site, "stopped", "7") == NO_RECEIPT


def test_a_site_that_cannot_be_opened_writes_a_receipt_of_that(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "institution.toml"
    file.write_text('name = "hospital"\n[data.clauses]\ntrain = "absent.jsonl"\n')
    monkeypatch.setenv(INSTITUTION_VARIABLE, str(file))
    reply = decode(ask(site_of_process).content, Refusal)
    assert reply.reason == CANNOT_OPEN
    (receipt,) = verify(tmp_path / "state", [read_public_key(key)])
    assert (receipt["kind"], receipt["body"]) == ("refusal", body_of(reply))


def test_a_process_that_serves_no_site_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(INSTITUTION_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match="collegium client up"):
        site_of_process(CONTEXT)
