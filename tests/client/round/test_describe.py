"""What a site tells of itself."""

from collections import Counter
from collections.abc import Callable

from client.site import Site
from shared.protocol import (
    QueryReply,
    QueryRequest,
)

MakeSite = Callable[..., Site]


def test_it_describes_what_it_holds(make_site: MakeSite) -> None:
    site = make_site("clauses", "notes_qa")
    reply = site.answer(QueryRequest(spec_digest=site.federation.digest))
    assert isinstance(reply, QueryReply)
    assert reply.institution == "hospital"
    assert reply.records["clauses"] == {"train": 11, "validation": 1, "test": 12}


def test_it_tells_its_labels_and_how_many_records_bear_each(make_site: MakeSite) -> None:
    site = make_site("clauses", "notes_qa")
    reply = site.answer(QueryRequest(spec_digest=site.federation.digest))
    assert isinstance(reply, QueryReply)
    counts = Counter(record["label"] for record in site.records("clauses", "train"))
    assert reply.readiness["notes_qa"]["duplicate_rate"] == 0
    assert all(isinstance(value, float) for numbers in reply.readiness.values() for value in numbers.values())
    assert reply.labels == {"clauses": {"payment": counts["payment"], "liability": counts["liability"]}}
