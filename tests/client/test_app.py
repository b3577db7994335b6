"""The ClientApp: it answers for its site, and keeps the site's own troubles at home."""

from collections.abc import Callable

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.app import INSTITUTION_VARIABLE, build_app, site_of_process
from client.site import Site
from shared.errors import ConfigError, DataError
from shared.protocol import QueryReply, QueryRequest, Refusal, decode, encode

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
    assert "Mrs Example has gout" in caplog.text


def test_a_process_that_serves_no_site_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(INSTITUTION_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match="collegium client up"):
        site_of_process(CONTEXT)
