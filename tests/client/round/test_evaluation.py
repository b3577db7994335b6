"""The scores that a site tells."""

from collections.abc import Callable

from client.site import Site
from client.train.scoring import score
from shared import codec
from shared.adapter import get_state
from shared.protocol import (
    EvaluateReply,
    EvaluateRequest,
)

MakeSite = Callable[..., Site]


def test_it_scores_every_task_it_holds_on_the_split(make_site: MakeSite) -> None:
    site = make_site("clauses", "entities")
    state = codec.encode(get_state(site.model), "float32")
    reply = site.answer(
        EvaluateRequest(spec_digest=site.federation.digest, run="r1", round=0, split="test", state=state)
    )
    assert isinstance(reply, EvaluateReply)
    assert reply.examples == {"clauses": 12, "entities": 8}
    assert 0 <= reply.scores["clauses"]["macro_f1"] <= 1


def test_it_tunes_the_null_threshold_on_its_validation_records(make_site: MakeSite) -> None:
    site = make_site("notes_qa")
    state = codec.encode(get_state(site.model), "float32")
    assert site.records("notes_qa", "validation") == ()
    reply = site.answer(
        EvaluateRequest(spec_digest=site.federation.digest, run="r1", round=0, split="test", state=state)
    )
    assert isinstance(reply, EvaluateReply)
    assert "null_threshold" not in reply.scores["notes_qa"]
    splits = dict(site.data["notes_qa"])
    splits["validation"] = splits["train"]
    tuned = score(site.model, "notes_qa", splits, "validation")
    assert score(site.model, "notes_qa", splits, "test")["null_threshold"] == tuned["null_threshold"]
    assert tuned["f1"] >= score(site.model, "notes_qa", {"test": splits["train"]}, "test")["f1"]
