"""Whom a site answers at all."""

from collections.abc import Callable

from client.site import Site
from shared.protocol import (
    QueryRequest,
    Refusal,
)

MakeSite = Callable[..., Site]


def test_another_agreement_is_refused(make_site: MakeSite) -> None:
    site = make_site("clauses")
    reply = site.answer(QueryRequest(spec_digest="f" * 64))
    assert isinstance(reply, Refusal)
    assert reply.kind == "agreement"
    assert site.federation.digest[:12] in reply.reason
