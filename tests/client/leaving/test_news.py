"""What the site's operator hears of an answer."""

import logging
from collections.abc import Callable

import pytest

from client.leaving import news
from client.service.daemon import NEWS
from client.site import Site
from shared.protocol import (
    EvaluateReply,
    EvaluateRequest,
    QueryRequest,
    Refusal,
    SharesReply,
    SharesRequest,
    TrainRequest,
)

D = "d" * 64


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, news.NAME)
    return lambda: [record.getMessage() for record in caplog.records if record.name == news.NAME]


def test_every_answer_is_told_in_a_line(make_site: Callable[..., Site], told: Callable[[], list[str]]) -> None:
    site = make_site("clauses", "entities")
    digest = site.federation.digest
    site.answer(QueryRequest(spec_digest=digest, run="r1"))
    site.answer(QueryRequest(spec_digest=D, run="r1"))
    site.answer(TrainRequest(spec_digest=digest, run="r1", round=1, rounds=99, state=b""))
    lines = told()
    assert lines[0] == "Run r1: told the coordinator what this site holds of clauses, entities"
    assert lines[1].startswith("Run r1: refused (agreement): This site has approved the federation file with digest")
    assert lines[2].startswith("Run r1, round 1 of 99: refused (request): Expected a run of")


def test_steps_of_secure_aggregation_are_told_only_if_refused(told: Callable[[], list[str]]) -> None:
    request = SharesRequest(
        spec_digest=D, run="r", round=2, sealing_keys={}, masking_keys={}, examples={}, labels={}, signatures={}
    )
    news.tell(request, SharesReply(institution="a", round=2, commitment="00", shares={}))
    news.tell(request, Refusal(institution="a", kind="failure", reason="no\x1b[2J memory"))
    assert told() == ["Run r, round 2: refused (failure): no [2J memory"]


def test_scores_that_stay_are_told_so(told: Callable[[], list[str]]) -> None:
    request = EvaluateRequest(spec_digest=D, run="r", round=2, split="validation", state=b"")
    reply = EvaluateReply(institution="a", round=2, split="validation", examples={}, scores={}, seconds=1.0)
    news.tell(request, reply)
    assert told() == ["Run r, round 2, validation records: scored; no score leaves"]


def test_the_daemon_knows_the_lines() -> None:
    record = logging.LogRecord(news.NAME, logging.INFO, "", 0, "Run r: it", (), None)
    line = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s").format(record)
    assert line.partition(NEWS)[2] == "Run r: it"
