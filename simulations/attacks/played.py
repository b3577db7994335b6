"""A round of secure aggregation that a coordinator leads by hand, with one of four institutions at its side.

Institutions are those of `client.round.secagg`, with updates that are random numbers.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from client.round.secagg import Participant, SecureRounds
from shared import codec
from shared.errors import ProtocolError
from shared.federation import Federation
from shared.protocol import (
    ConfirmRequest,
    MaskRequest,
    OpenRequest,
    SharesRequest,
    TrainedReply,
    TrainReply,
    UnmaskRequest,
)
from shared.secagg import fixedpoint, masks, shares
from shared.secagg.keys import PublicKeys
from shared.secagg.view import Context, Member, sign_member, view_of
from shared.weighting import Shares, sum_shares
from simulations.nodekeys import node_key, public_keys

NAMES = ("bank", "clinic", "hospital", "insurer")
VICTIM, HELPER = "hospital", "insurer"
HONEST = tuple(name for name in NAMES if name != HELPER)
THRESHOLD = 3
ADAPTER, HEAD = "adapter/q.lora_A.weight", "head/notes_qa/linear.weight"
SHAPES = {ADAPTER: (20, 50), HEAD: (20, 50)}
OUTPUTS: dict[str, tuple[str, ...]] = {"clauses": (), "notes_qa": ()}
RUN = "r1"


def _federation() -> Federation:
    tasks = {task: {"type": "question-answering"} for task in OUTPUTS}
    return Federation.model_validate(
        {
            "name": "attacked",
            "backbone": {"sha256": "0" * 64},
            "tasks": tasks,
            "rounds": {"institutions": NAMES, "quorum": THRESHOLD},
            "wire": {"up": "float32"},
            "secure_aggregation": {"threshold": THRESHOLD, "keys": public_keys(NAMES)},
        }
    )


class Played:
    """A round after training, and the requests that an honest coordinator would send next."""

    def __init__(self, counts: Mapping[str, int] | None = None, number: int = 1, run: str = RUN) -> None:
        self.federation, self.number, self.run = _federation(), number, run
        self.sites = {name: SecureRounds(node_key(name)) for name in NAMES}
        rng = np.random.default_rng(0)
        self.updates = {name: {array: rng.normal(size=shape) for array, shape in SHAPES.items()} for name in NAMES}
        self.trained = {name: self.train(name, (counts or {}).get(name, 10)) for name in NAMES}

    def train(self, name: str, count: int) -> TrainedReply:
        """The head of notes_qa is the victim's alone."""
        tasks = OUTPUTS if name == VICTIM else ("clauses",)
        update = {
            array: values.astype(np.float32)
            for array, values in self.updates[name].items()
            if array == ADAPTER or name == VICTIM
        }
        reply = TrainReply(
            institution=name,
            round=self.number,
            examples=dict.fromkeys(tasks, count),
            losses={},
            steps=1,
            seconds=0.1,
            update=codec.encode(update, "float32"),
        )
        return self.sites[name].begin(reply, update, self.federation, run=self.run, labels={})

    @property
    def context(self) -> Context:
        """What signatures begin with."""
        return Context(self.run, self.number, self.federation.digest)

    @property
    def moment(self) -> dict[str, Any]:
        """What every request holds."""
        return {"spec_digest": self.federation.digest, "run": self.run, "round": self.number}

    def directory(self, changes: Mapping[str, TrainedReply] | None = None) -> SharesRequest:
        """Who takes part, as announced but for some changes."""
        replies = {**self.trained, **(changes or {})}
        return SharesRequest(
            **self.moment,
            sealing_keys={name: reply.sealing_key for name, reply in replies.items()},
            masking_keys={name: reply.masking_key for name, reply in replies.items()},
            examples={name: reply.examples for name, reply in replies.items()},
            labels={name: reply.labels for name, reply in replies.items()},
            signatures={name: reply.signature for name, reply in replies.items()},
        )

    def members(self) -> dict[str, Member]:
        """Who takes part, as announced."""
        return {
            name: Member(PublicKeys(r.sealing_key, r.masking_key), r.examples, r.labels, r.signature)
            for name, r in self.trained.items()
        }

    def signed(self, name: str, by: ec.EllipticCurvePrivateKey, **changes: Any) -> TrainedReply:
        """What an institution announced, changed, with a signature by some key."""
        reply = replace(self.trained[name], **changes)
        keys = PublicKeys(reply.sealing_key, reply.masking_key)
        member = sign_member(self.context, name, keys, reply.examples, reply.labels, node_key=by)
        return replace(reply, signature=member.signature)

    def ask(self, name: str, request: Any) -> Any:
        """An institution's answer."""
        return self.sites[name].answer(request, Participant(name, self.federation, SHAPES, OUTPUTS))

    def share(self) -> dict[str, Any]:
        """What everybody seals for the others."""
        return {name: self.ask(name, self.directory()) for name in NAMES}

    def open(self, shared: Mapping[str, Any], changed: Mapping[str, Mapping[str, str]] | None = None) -> dict[str, Any]:
        """Have everybody open what was sealed for it, except for what some are sent instead."""
        replies = {}
        for name in NAMES:
            sealed = {peer: reply.shares[name] for peer, reply in shared.items() if peer != name}
            replies[name] = self.ask(
                name, OpenRequest(**self.moment, shares=sealed | dict((changed or {}).get(name, {})))
            )
        return replies

    def mask(self, sharers: Mapping[str, Collection[str]]) -> dict[str, np.ndarray]:
        """By institution, what it masks among the sharers that it is sent."""
        return {
            name: np.frombuffer(self.ask(name, MaskRequest(**self.moment, sharers=list(names))).update, "<u4")
            for name, names in sharers.items()
        }

    def confirm(self, survivors: Mapping[str, Collection[str]]) -> dict[str, str]:
        """By institution, its signature of the survivors that it is sent, if it signs."""
        signatures = {}
        for name, names in survivors.items():
            try:
                signatures[name] = self.ask(name, ConfirmRequest(**self.moment, survivors=list(names))).signature
            except ProtocolError:
                continue
        return signatures

    def unmask(self, signatures: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
        """By institution, what it gives for the signatures that it is shown; of those who give anything."""
        given = {}
        for name, shown in signatures.items():
            try:
                given[name] = self.ask(name, UnmaskRequest(**self.moment, signatures=shown))
            except ProtocolError:
                continue
        return given

    def total(
        self, sharers: Collection[str], masked: Mapping[str, np.ndarray], shared: Any, given: Any
    ) -> codec.Arrays:
        """The arrays that the sum of all masked updates comes to, everybody being a survivor."""
        members = self.members()
        seeds = {
            name: shares.recover_seed(
                {holder: bytes.fromhex(reply.seeds[name]) for holder, reply in given.items()},
                members,
                threshold=THRESHOLD,
                commitment=shared[name].commitment,
            )
            for name in masked
        }
        view = view_of(self.context, members, sharers)
        summed = np.asarray(np.sum(list(masked.values()), axis=0, dtype="<u4"))
        clear = masks.unmask(summed, seeds=seeds, lost={}, directory=members, view=view)
        return self.decode(clear, sharers)

    def weights(self, sharers: Collection[str]) -> Shares:
        """What everybody weighs among these."""
        members = {name: of for name, of in self.members().items() if name in sharers}
        return sum_shares(members, shapes=SHAPES, outputs=OUTPUTS, weighting="tasks", most=0.5)

    def decode(self, clear: np.ndarray, sharers: Collection[str]) -> codec.Arrays:
        """The arrays that a vector without masks holds."""
        weights = self.weights(sharers)[VICTIM]
        return fixedpoint.decode_all(clear, shapes=SHAPES, weights=weights, fraction_bits=24)[0]

    def seed(self, name: str) -> bytes:
        """Of an institution's own mask, before the round is over."""
        round_ = self.sites[name]._round
        assert round_ is not None
        assert round_.shared is not None
        return round_.shared.seed

    def likeness(self, found: np.ndarray, array: str = ADAPTER) -> float:
        """Correlation with the victim's update; 0 of what does not vary."""
        if not found.std():
            return 0.0
        return abs(float(np.corrcoef(found.ravel(), self.updates[VICTIM][array].ravel())[0, 1]))
