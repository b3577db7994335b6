"""The messages: each survives Flower's own serialisation, and a wrong one is refused."""

from dataclasses import replace
from typing import Any

import pytest
from flwr.app import ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

from shared import protocol
from shared.errors import ProtocolError

MESSAGES: list[Any] = [
    protocol.QueryRequest(spec_digest="d" * 64),
    protocol.QueryReply(institution="bank", records={"t": {"train": 3}}, software="0.1.0"),
    protocol.TrainRequest(spec_digest="d" * 64, run="r1", round=1, rounds=2, state=b"\x00\x01\xff"),
    protocol.TrainReply(
        institution="bank", round=1, examples={"t": 3}, losses={"t": 0.5}, steps=4, seconds=1.5, update=b"\x01" * 1000
    ),
    protocol.EvaluateRequest(spec_digest="d" * 64, run="r1", round=0, split="test", state=b"s"),
    protocol.EvaluateReply(
        institution="bank", round=0, split="test", examples={"t": 3}, scores={"t": {"f1": 0.25}}, seconds=0.5
    ),
    protocol.Refusal(institution="bank", kind="data", reason="No such file."),
    protocol.TrainedReply(
        institution="bank",
        round=1,
        examples={"t": 3},
        losses={"t": 0.5},
        steps=4,
        seconds=1.5,
        sealing_key="02aa",
        masking_key="03bb",
        labels={"t": ["a"]},
        signature="dd",
    ),
    protocol.SharesRequest(
        spec_digest="d" * 64,
        run="r1",
        round=1,
        sealing_keys={"bank": "02aa"},
        masking_keys={"bank": "03bb"},
        examples={"bank": {"t": 3}},
        labels={"bank": {"t": ["a"]}},
        signatures={"bank": "dd"},
    ),
    protocol.SharesReply(institution="bank", round=1, commitment="cc", shares={"clinic": "sealed"}),
    protocol.OpenRequest(spec_digest="d" * 64, run="r1", round=1, shares={"clinic": "sealed"}),
    protocol.OpenReply(institution="bank", round=1, unopened=["clinic"]),
    protocol.MaskRequest(spec_digest="d" * 64, run="r1", round=1, sharers=["bank", "clinic"]),
    protocol.MaskReply(institution="bank", round=1, update=b"\x00\xff"),
    protocol.ConfirmRequest(spec_digest="d" * 64, run="r1", round=1, survivors=["bank"]),
    protocol.ConfirmReply(institution="bank", round=1, signature="dd"),
    protocol.UnmaskRequest(spec_digest="d" * 64, run="r1", round=1, signatures={"bank": "dd"}),
    protocol.UnmaskReply(institution="bank", round=1, seeds={"bank": "00"}, keys={"clinic": "01"}),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_round_trip_through_flower(message: Any) -> None:
    wire = recorddict_from_proto(recorddict_to_proto(protocol.encode(message)))
    assert protocol.decode(wire, type(message)) == message


def test_every_message_is_tested() -> None:
    assert {type(message).__name__ for message in MESSAGES} == protocol.MESSAGES.keys()


def test_arrays_travel_as_one_object() -> None:
    records = protocol.encode(MESSAGES[3])
    assert len(records.array_records["arrays"]) == 1


def test_another_kind_is_refused() -> None:
    with pytest.raises(ProtocolError, match="Expected TrainReply or Refusal, but 'QueryRequest' came"):
        protocol.decode(protocol.encode(MESSAGES[0]), protocol.TrainReply, protocol.Refusal)


def test_another_version_is_refused() -> None:
    records = protocol.encode(MESSAGES[0])
    records["header"] = ConfigRecord(dict(records.config_records["header"]) | {"version": 99})
    with pytest.raises(ProtocolError, match="version 2, but the message is version '99'"):
        protocol.decode(records, protocol.QueryRequest)


def test_what_the_release_before_says_is_read_and_answered_as_it_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "SPOKEN", (1, 2))
    older = protocol.encode(MESSAGES[0], 1)
    assert protocol.version_of(older) == 1
    assert protocol.decode(older, protocol.QueryRequest) == MESSAGES[0]
    assert protocol.version_of(protocol.encode(MESSAGES[0])) == 2
    for broken in (RecordDict(), RecordDict({"header": ConfigRecord({"version": 99})})):
        assert protocol.version_of(broken) is None
    monkeypatch.setattr(protocol, "SPOKEN", (2,))
    with pytest.raises(ProtocolError, match=r"version 2, but the message is version '1'; .* upgrade the side"):
        protocol.decode(older, protocol.QueryRequest)


def test_a_later_field_is_not_said_where_it_has_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the release before would refuse the message for a field that it does not know."""
    monkeypatch.setattr(protocol, "LATER", {"TrainRequest": frozenset({"taken"})})
    first, again = MESSAGES[2], replace(MESSAGES[2], taken=3)
    assert '"taken"' not in protocol.body_of(first)
    assert '"taken": 3' in protocol.body_of(again)
    for message in (first, again):
        assert protocol.decode(protocol.encode(message), protocol.TrainRequest) == message


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"version": 2},
        {"version": 2, "kind": "QueryReply", "body": "not JSON"},
    ],
)
def test_a_malformed_message_is_refused(header: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="malformed"):
        protocol.decode(RecordDict({"header": ConfigRecord(header)}), protocol.QueryReply)
