"""An institution's secrets: each step once and in order, never both shares of a peer, nothing after the round."""

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from client.keys import check_agreed_key
from client.round.secagg import Participant, SecureRounds
from shared import codec, protocol
from shared.errors import ConfigError, ProtocolError, RefusalError
from shared.federation import Federation
from shared.nodekeys import sign
from shared.protocol import (
    ConfirmReply,
    ConfirmRequest,
    MaskReply,
    MaskRequest,
    OpenReply,
    OpenRequest,
    SharesReply,
    SharesRequest,
    TrainedReply,
    UnmaskReply,
    UnmaskRequest,
)
from shared.secagg import masks, shares
from shared.secagg.keys import PublicKeys, make_keys
from shared.secagg.view import Member, sign_member, survivors_message, view_of
from simulations.nodekeys import node_key

NAMES = ("bank", "clinic", "hospital", "insurer")
UPDATE = {"adapter/a": np.ones((2, 2), np.float32), "head/clauses/b": np.full(3, 2.0, np.float32)}
SHAPES: dict[str, tuple[int, ...]] = {name: array.shape for name, array in UPDATE.items()} | {"head/entities/b": (2,)}
OUTPUTS = {"clauses": ("payment", "liability"), "entities": ()}


class Sites:
    """Four institutions, led by hand."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.rounds = {name: SecureRounds(node_key(name)) for name in NAMES}
        self.trained: dict[str, TrainedReply] = {}
        self.shared: dict[str, SharesReply] = {}
        self.train(1)

    def train(self, number: int) -> None:
        for name in NAMES:
            reply = protocol.TrainReply(
                institution=name,
                round=number,
                examples={"clauses": 3},
                losses={},
                steps=1,
                seconds=0.1,
                update=codec.encode(UPDATE, "float32"),
            )
            self.trained[name] = self.rounds[name].begin(reply, UPDATE, self.federation, run="r", labels={})

    def of_round(self, number: int = 1) -> dict[str, Any]:
        return {"spec_digest": "d", "run": "r", "round": number}

    def shares_request(self, number: int = 1) -> SharesRequest:
        return SharesRequest(
            **self.of_round(number),
            sealing_keys={name: reply.sealing_key for name, reply in self.trained.items()},
            masking_keys={name: reply.masking_key for name, reply in self.trained.items()},
            examples={name: reply.examples for name, reply in self.trained.items()},
            labels={name: reply.labels for name, reply in self.trained.items()},
            signatures={name: reply.signature for name, reply in self.trained.items()},
        )

    @property
    def directory(self) -> dict[str, Member]:
        return {
            name: Member(PublicKeys(r.sealing_key, r.masking_key), r.examples, r.labels, r.signature)
            for name, r in self.trained.items()
        }

    @property
    def view(self) -> bytes:
        context = self.rounds["bank"]._round
        assert context is not None
        return view_of(context.context, self.directory, NAMES)

    def share(self, number: int = 1) -> None:
        for name in NAMES:
            reply = self.ask(name, self.shares_request(number))
            assert isinstance(reply, SharesReply)
            self.shared[name] = reply

    def open_request(self, name: str, number: int = 1) -> OpenRequest:
        sealed = {peer: reply.shares[name] for peer, reply in self.shared.items() if peer != name}
        return OpenRequest(**self.of_round(number), shares=sealed)

    def open(self) -> None:
        for name in NAMES:
            assert self.ask(name, self.open_request(name)) == OpenReply(institution=name, round=1, unopened=[])

    def mask_request(self, sharers: Collection[str] = NAMES, number: int = 1) -> MaskRequest:
        return MaskRequest(**self.of_round(number), sharers=list(sharers))

    def mask(self) -> dict[str, np.ndarray]:
        masked = {}
        for name in NAMES:
            reply = self.ask(name, self.mask_request())
            assert isinstance(reply, MaskReply)
            masked[name] = np.frombuffer(reply.update, np.uint32)
        return masked

    def confirm(self, *survivors: str, by: Collection[str] = NAMES) -> UnmaskRequest:
        request = ConfirmRequest(**self.of_round(), survivors=list(survivors))
        signatures = {}
        for name in by:
            reply = self.ask(name, request)
            assert isinstance(reply, ConfirmReply)
            signatures[name] = reply.signature
        return UnmaskRequest(**self.of_round(), signatures=signatures)

    def upto_masked(self) -> dict[str, np.ndarray]:
        self.share()
        self.open()
        return self.mask()

    def ask(self, name: str, request: Any, federation: Federation | None = None) -> Any:
        participant = Participant(name, federation or self.federation, SHAPES, OUTPUTS)
        return self.rounds[name].answer(request, participant)


@pytest.fixture
def sites(tiny_federation: Callable[..., Federation]) -> Sites:
    return Sites(tiny_federation(NAMES, rounds={"quorum": 3}, secure_aggregation={"threshold": 3}))


def test_a_whole_round_by_hand(sites: Sites) -> None:
    masked = sites.upto_masked()
    request = sites.confirm(*NAMES)
    view = sites.view
    replies = {name: sites.ask(name, request) for name in NAMES}
    seeds = {
        name: shares.recover_seed(
            {holder: bytes.fromhex(reply.seeds[name]) for holder, reply in replies.items()},
            sites.directory,
            threshold=3,
            commitment=sites.shared[name].commitment,
        )
        for name in NAMES
    }
    total = np.asarray(np.sum(list(masked.values()), axis=0, dtype=np.uint32))
    clear = masks.unmask(total, seeds=seeds, lost={}, directory=sites.directory, view=view).astype(np.int64) / 2**24
    assert clear[:9].tolist() == [1.0] * 4 + [2.0] * 3 + [0.0, 0.0]
    assert clear[9:].tolist() == [1.0, 1.0, 0.0]  # the weights in each array add up to one, or nobody holds it


def test_an_update_is_masked_once(sites: Sites) -> None:
    for shared in (False, True):
        if shared:
            sites.share()
        with pytest.raises(ProtocolError, match="masked once, after shares are opened"):
            sites.ask("bank", sites.mask_request())
    sites.open()
    sites.mask()
    with pytest.raises(ProtocolError, match="masked once"):
        sites.ask("bank", sites.mask_request())


def test_secrets_are_shared_and_opened_once(sites: Sites) -> None:
    sites.share()
    with pytest.raises(ProtocolError, match="shared once"):
        sites.ask("bank", sites.shares_request())
    sites.open()
    with pytest.raises(ProtocolError, match="opened once"):
        sites.ask("bank", sites.open_request("bank"))


def test_never_both_shares_of_a_peer(sites: Sites) -> None:
    early = UnmaskRequest(**sites.of_round(), signatures={})
    with pytest.raises(ProtocolError, match="signed once, after the update is masked"):
        sites.confirm(*NAMES)
    sites.upto_masked()
    with pytest.raises(ProtocolError, match="after the survivors are signed"):
        sites.ask("bank", early)
    request = sites.confirm("bank", "clinic", "insurer", by=("bank", "clinic", "insurer"))
    with pytest.raises(ProtocolError, match="signed once"):
        sites.confirm(*NAMES, by=["bank"])
    reply = sites.ask("bank", request)
    assert isinstance(reply, UnmaskReply)
    assert reply.seeds.keys() == {"bank", "clinic", "insurer"}
    assert reply.keys.keys() == {"hospital"}
    with pytest.raises(ProtocolError, match="forgotten after the round"):
        sites.ask("bank", request)


def test_shares_are_given_for_survivors_that_enough_have_signed(sites: Sites) -> None:
    sites.upto_masked()
    three = ("bank", "clinic", "insurer")
    request = sites.confirm(*three, by=["bank", "clinic"])
    other = sites.confirm(*NAMES, by=["hospital", "insurer"])  # those were told otherwise
    forged = sign_survivors(sites, "insurer", three, key="hospital")
    message_of_others = {"insurer": other.signatures["insurer"], "hospital": other.signatures["hospital"]}
    for signatures in (
        {},
        request.signatures,
        {**request.signatures, **message_of_others},
        {**request.signatures, "insurer": forged},
        {**request.signatures, "bank": request.signatures["clinic"]},
        {**request.signatures, "hospital": sign_survivors(sites, "hospital", three)},  # not a survivor itself
        {**request.signatures, "stranger": request.signatures["bank"]},
    ):
        with pytest.raises(ProtocolError, match="have signed the same survivors as bank"):
            sites.ask("bank", replace(request, signatures=signatures))
    right = {**request.signatures, "insurer": sign_survivors(sites, "insurer", three)}
    assert sites.ask("bank", replace(request, signatures=right)).seeds.keys() == set(three)


def sign_survivors(sites: Sites, name: str, survivors: Collection[str], key: str = "") -> str:
    return sign(node_key(key or name), survivors_message(sites.view, survivors))


@pytest.mark.parametrize(
    "survivors",
    [
        (),
        ("bank", "clinic"),
        ("bank", "clinic", "clinic"),
        (*NAMES, "bank"),
        ("bank", "clinic", "hospital", "stranger"),
    ],
)
def test_too_few_or_unknown_survivors_are_not_signed(sites: Sites, survivors: tuple[str, ...]) -> None:
    sites.upto_masked()
    with pytest.raises(ProtocolError, match="nothing is given"):
        sites.confirm(*survivors, by=["bank"])
    sites.confirm(*NAMES)  # the right request is still answered


def test_a_sum_of_which_one_is_too_much_is_not_signed(sites: Sites) -> None:
    low = sites.federation.rounds.model_copy(update={"max_share": 0.3})
    sites.federation = sites.federation.model_copy(update={"rounds": low})
    sites.upto_masked()  # a quarter each
    with pytest.raises(ProtocolError, match=r"one would weigh 0.33; no share is given"):
        sites.confirm("bank", "clinic", "hospital", by=["bank"])
    sites.confirm(*NAMES)


def test_shares_that_do_not_open_are_told_of(sites: Sites) -> None:
    sites.share()
    request = sites.open_request("bank")
    wrong = {"clinic": "garbled", "hospital": sites.shared["hospital"].shares["clinic"]}
    reply = sites.ask("bank", replace(request, shares={**request.shares, **wrong}))
    assert reply.unopened == ["clinic", "hospital"]
    for sharers in (NAMES, ("bank", "clinic", "insurer")):  # it masks only among those whose shares it holds
        with pytest.raises(ProtocolError, match="nothing is given"):
            sites.ask("bank", sites.mask_request(sharers))


@pytest.mark.parametrize("sharers", [(), ("bank", "clinic"), ("clinic", "hospital", "insurer"), (*NAMES, "bank")])
def test_too_few_sharers_or_others_are_refused(sites: Sites, sharers: tuple[str, ...]) -> None:
    sites.share()
    sites.open()
    with pytest.raises(ProtocolError, match=r"nothing is given|Expected bank among"):
        sites.ask("bank", sites.mask_request(sharers))


def test_a_new_round_forgets_the_last(sites: Sites) -> None:
    sites.upto_masked()
    sites.train(2)
    for request in (sites.mask_request(), sites.open_request("bank"), sites.shares_request()):
        with pytest.raises(ProtocolError, match="about round 1"):
            sites.ask("bank", request)
    old = dict(sites.shared)
    sites.share(2)
    sites.shared = old
    assert sites.ask("bank", sites.open_request("bank", 2)).unopened == ["clinic", "hospital", "insurer"]


def test_another_run_is_another_round(sites: Sites) -> None:
    with pytest.raises(ProtocolError, match="about round 1 of run other"):
        sites.ask("bank", replace(sites.shares_request(), run="other"))


def test_a_restarted_site_says_so(sites: Sites) -> None:
    sites.share()
    sites.rounds["bank"] = SecureRounds(node_key("bank"))
    with pytest.raises(ProtocolError, match="when the site restarts"):
        sites.ask("bank", sites.open_request("bank"))


def test_the_directory_is_of_the_federation_and_signed(sites: Sites) -> None:
    request = sites.shares_request()
    fresh = make_keys().public
    own = sites.rounds["bank"]._round
    assert own is not None
    mallory = sign_member(own.context, "clinic", fresh, {"clauses": 3}, {}, node_key=node_key("hospital"))
    lied = sign_member(own.context, "bank", fresh, {"clauses": 3}, {}, node_key=node_key("bank"))
    false: list[tuple[dict[str, Any], str]] = [
        ({"masking_keys": {n: k for n, k in request.masking_keys.items() if n != "clinic"}}, "some lack"),
        ({"sealing_keys": {**request.sealing_keys, "clinic": fresh.sealing}}, "that clinic has signed"),
        ({"masking_keys": {**request.masking_keys, "clinic": fresh.masking}}, "that clinic has signed"),
        ({"signatures": {**request.signatures, "clinic": mallory.signature}}, "that clinic has signed"),
        ({"examples": {**request.examples, "clinic": {"clauses": 4}}}, "that clinic has signed"),
        ({"labels": {**request.labels, "clinic": {"clauses": ["payment"]}}}, "that clinic has signed"),
        ({"sealing_keys": {**request.sealing_keys, "bank": request.masking_keys["bank"]}}, "one came twice"),
        (
            {
                "sealing_keys": {**request.sealing_keys, "bank": lied.keys.sealing},
                "masking_keys": {**request.masking_keys, "bank": lied.keys.masking},
                "signatures": {**request.signatures, "bank": lied.signature},
            },
            "Expected bank as it has announced itself",
        ),
    ]
    for changes, said in false:
        with pytest.raises(ProtocolError, match=said):
            sites.ask("bank", replace(request, **changes))
    sites.share()  # the right one is still answered


def test_it_needs_a_federation_that_agreed_and_a_key(sites: Sites, tiny_federation: Callable[..., Federation]) -> None:
    with pytest.raises(RefusalError, match="only where the federation file has it"):
        sites.ask("bank", sites.shares_request(), tiny_federation())
    reply = protocol.TrainReply(
        institution="bank", round=1, examples={"clauses": 3}, losses={}, steps=1, seconds=0.1, update=b""
    )
    with pytest.raises(RefusalError, match="no node key"):
        SecureRounds().begin(reply, {}, sites.federation, run="r", labels={})


def test_the_agreement_must_name_the_sites_own_key(sites: Sites) -> None:
    check_agreed_key(node_key("bank").public_key(), "bank", sites.federation)
    with pytest.raises(ConfigError, match=r"own key SHA256:.* under bank in .secure_aggregation.keys"):
        check_agreed_key(node_key("clinic").public_key(), "bank", sites.federation)


def test_cut_values_are_logged(sites: Sites, caplog: pytest.LogCaptureFixture) -> None:
    agreed = sites.federation.secure_aggregation
    assert agreed is not None
    low = sites.federation.model_copy(update={"secure_aggregation": agreed.model_copy(update={"clip": 1.5})})
    sites.share()
    sites.open()
    sites.ask("bank", sites.mask_request(), low)
    assert "3 values of the update are beyond" in caplog.text
