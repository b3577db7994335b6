"""An institution's secrets: each step once and in order, never both shares of a peer, nothing after the round."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from client.secagg import SecureRounds
from shared import codec, protocol, secagg
from shared.errors import ProtocolError, RefusalError
from shared.federation import Federation
from shared.protocol import (
    MaskReply,
    MaskRequest,
    SharesReply,
    SharesRequest,
    TrainedReply,
    UnmaskReply,
    UnmaskRequest,
)

NAMES = ("bank", "clinic", "hospital")
UPDATE = {"adapter/a": np.ones((2, 2), np.float32), "head/clauses/b": np.full(3, 2.0, np.float32)}
SHAPES: dict[str, tuple[int, ...]] = {name: array.shape for name, array in UPDATE.items()} | {"head/other/b": (2,)}
WEIGHTS = {"adapter/a": [0.25], "head/clauses/b": [0.5, 0.0, 1.0]}


class Sites:
    """Three institutions, led by hand."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.rounds = {name: SecureRounds() for name in NAMES}
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
            self.trained[name] = self.rounds[name].keep(
                reply, self.federation, {name: array.shape for name, array in UPDATE.items()}
            )

    def shares_request(self, number: int = 1) -> SharesRequest:
        return SharesRequest(
            spec_digest="d",
            round=number,
            sealing_keys={name: reply.sealing_key for name, reply in self.trained.items()},
            masking_keys={name: reply.masking_key for name, reply in self.trained.items()},
        )

    def share(self, number: int = 1) -> None:
        for name in NAMES:
            reply = self.ask(name, self.shares_request(number))
            assert isinstance(reply, SharesReply)
            self.shared[name] = reply

    def mask_request(self, name: str, number: int = 1) -> MaskRequest:
        shares = {peer: reply.shares[name] for peer, reply in self.shared.items() if peer != name}
        return MaskRequest(spec_digest="d", round=number, shares=shares, weights=WEIGHTS)

    def mask(self) -> dict[str, np.ndarray]:
        masked = {}
        for name in NAMES:
            reply = self.ask(name, self.mask_request(name))
            assert isinstance(reply, MaskReply)
            masked[name] = np.frombuffer(reply.update, np.uint32)
        return masked

    def ask(self, name: str, request: Any, federation: Federation | None = None) -> Any:
        return self.rounds[name].answer(request, name=name, federation=federation or self.federation, shapes=SHAPES)


def unmask(*survivors: str, number: int = 1) -> UnmaskRequest:
    return UnmaskRequest(spec_digest="d", round=number, survivors=list(survivors))


@pytest.fixture
def sites(tiny_federation: Callable[..., Federation]) -> Sites:
    return Sites(tiny_federation(NAMES, rounds={"quorum": 2}, secure_aggregation={"threshold": 2}))


def test_a_whole_round_by_hand(sites: Sites) -> None:
    sites.share()
    masked = sites.mask()
    replies = {name: sites.ask(name, unmask(*NAMES)) for name in NAMES}
    directory = {name: secagg.PublicKeys(r.sealing_key, r.masking_key) for name, r in sites.trained.items()}
    seeds = {
        name: secagg.recover_seed(
            {holder: bytes.fromhex(reply.seeds[name]) for holder, reply in replies.items()},
            directory,
            threshold=2,
            commitment=sites.shared[name].commitment,
        )
        for name in NAMES
    }
    total = np.asarray(np.sum(list(masked.values()), axis=0, dtype=np.uint32))
    clear = secagg.unmask(total, seeds=seeds, lost={}, directory=directory).astype(np.int64) / 2**24
    assert clear.tolist() == [0.75] * 4 + [3.0, 0.0, 6.0] + [0.0, 0.0]


def test_an_update_is_masked_once(sites: Sites) -> None:
    with pytest.raises(ProtocolError, match="masked once, after shares"):
        sites.ask("bank", MaskRequest(spec_digest="d", round=1, shares={}, weights=WEIGHTS))
    sites.share()
    sites.mask()
    with pytest.raises(ProtocolError, match="masked once"):
        sites.ask("bank", sites.mask_request("bank"))


def test_secrets_are_shared_once(sites: Sites) -> None:
    sites.share()
    with pytest.raises(ProtocolError, match="shared once"):
        sites.ask("bank", sites.shares_request())


def test_never_both_shares_of_a_peer(sites: Sites) -> None:
    with pytest.raises(ProtocolError, match="after the update is masked"):
        sites.ask("bank", unmask(*NAMES))
    sites.share()
    sites.mask()
    reply = sites.ask("bank", unmask("bank", "clinic"))
    assert isinstance(reply, UnmaskReply)
    assert reply.seeds.keys() == {"bank", "clinic"}
    assert reply.keys.keys() == {"hospital"}
    for survivors in (("bank", "hospital"), NAMES, ("bank", "clinic")):
        with pytest.raises(ProtocolError, match="forgotten after the round"):
            sites.ask("bank", unmask(*survivors))


@pytest.mark.parametrize("survivors", [("bank",), ("bank", "bank"), (), ("bank", "clinic", "stranger")])
def test_too_few_or_unknown_survivors_get_nothing(sites: Sites, survivors: tuple[str, ...]) -> None:
    sites.share()
    sites.mask()
    with pytest.raises(ProtocolError, match="no share is given"):
        sites.ask("bank", unmask(*survivors))
    assert sites.ask("bank", unmask(*NAMES)).seeds.keys() == set(NAMES)  # the right request is still answered


def test_a_new_round_forgets_the_last(sites: Sites) -> None:
    sites.share()
    sites.mask()
    sites.train(2)
    for request in (unmask(*NAMES), sites.mask_request("bank"), sites.shares_request()):
        with pytest.raises(ProtocolError, match="about round 1"):
            sites.ask("bank", request)
    old = dict(sites.shared)
    sites.share(2)
    sites.shared = old
    with pytest.raises(ProtocolError, match="in this round"):
        sites.ask("bank", sites.mask_request("bank", 2))


def test_a_restarted_site_says_so(sites: Sites) -> None:
    sites.share()
    sites.rounds["bank"] = SecureRounds()
    with pytest.raises(ProtocolError, match="when the site restarts"):
        sites.ask("bank", sites.mask_request("bank"))


def test_the_directory_is_of_the_federation(sites: Sites) -> None:
    request = sites.shares_request()
    strange = replace(
        request,
        sealing_keys={**request.sealing_keys, "stranger": secagg.make_keys().public.sealing},
        masking_keys={**request.masking_keys, "stranger": secagg.make_keys().public.masking},
    )
    half = replace(request, masking_keys={n: k for n, k in request.masking_keys.items() if n != "clinic"})
    for wrong, said in ((strange, "stranger"), (half, "clinic")):
        with pytest.raises(ProtocolError, match=said):
            sites.ask("bank", wrong)
    swapped = replace(request, sealing_keys={**request.sealing_keys, "bank": request.masking_keys["bank"]})
    with pytest.raises(ProtocolError, match="one came twice"):
        sites.ask("bank", swapped)


def test_too_few_peers_are_refused(sites: Sites) -> None:
    sites.share()
    with pytest.raises(ProtocolError, match="at least 1 peers"):
        sites.ask("bank", replace(sites.mask_request("bank"), shares={}))


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"adapter/a": [0.5]}, "every array"),
        (WEIGHTS | {"head/other/b": [1.0]}, "every array"),
        (WEIGHTS | {"head/clauses/b": [0.5, 0.5]}, "one per row"),
        (WEIGHTS | {"adapter/a": [1.5]}, "between 0 and 1"),
        (WEIGHTS | {"adapter/a": [-0.5]}, "between 0 and 1"),
    ],
)
def test_wrong_weights_are_refused(sites: Sites, weights: dict[str, list[float]], said: str) -> None:
    sites.share()
    with pytest.raises(ProtocolError, match=said):
        sites.ask("bank", replace(sites.mask_request("bank"), weights=weights))


def test_it_needs_a_federation_that_agreed(sites: Sites, tiny_federation: Callable[..., Federation]) -> None:
    with pytest.raises(RefusalError, match="only where the federation file has it"):
        sites.ask("bank", sites.shares_request(), tiny_federation())


def test_cut_values_are_logged(sites: Sites, caplog: pytest.LogCaptureFixture) -> None:
    agreed = sites.federation.secure_aggregation
    assert agreed is not None
    low = sites.federation.model_copy(update={"secure_aggregation": agreed.model_copy(update={"clip": 1.5})})
    sites.share()
    sites.ask("bank", sites.mask_request("bank"), low)
    assert "3 values of the update are beyond" in caplog.text
