"""An institution's side of secure aggregation: its secrets of the round in progress, in memory only.

The order of steps is fixed and each is taken once: a round has one set of keys, one masked update, and one answer to
what unmasks the sum. Whatever is asked out of order is refused, so that nobody gets both a peer's seed and its mask key
from here, nor two masked updates under one set of masks. A new round forgets the last one.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from shared import codec, fixedpoint, secagg
from shared.codec import Arrays
from shared.errors import ProtocolError, RefusalError
from shared.federation import Federation, SecureAggregation
from shared.fixedpoint import Shapes
from shared.protocol import (
    MaskReply,
    MaskRequest,
    SecureReply,
    SecureRequest,
    SharesReply,
    SharesRequest,
    TrainedReply,
    TrainReply,
    UnmaskReply,
    UnmaskRequest,
)
from shared.secagg import Keys, PublicKeys, Share, Shared

log = logging.getLogger("collegium.client")


@dataclass
class _Round:
    """What an institution keeps from training to unmasking; each step takes away what no later one needs."""

    number: int
    keys: Keys = field(repr=False)
    update: Arrays | None = field(repr=False)
    directory: dict[str, PublicKeys] = field(default_factory=dict)
    shared: Shared | None = field(default=None, repr=False)
    held: dict[str, Share] = field(default_factory=dict, repr=False)
    """Its shares of everybody's secrets, once it has masked its update."""


class SecureRounds:
    """One institution in the rounds of a federation with `[secure_aggregation]`."""

    def __init__(self) -> None:
        self._round: _Round | None = None

    def keep(self, reply: TrainReply, federation: Federation, shapes: Shapes) -> TrainedReply:
        """Begin a round: keep the update that has been trained, and announce public keys in its place."""
        keys = secagg.make_keys()
        self._round = _Round(reply.round, keys, codec.decode(reply.update, federation.wire.coding_up, shapes))
        return TrainedReply(
            institution=reply.institution,
            round=reply.round,
            examples=reply.examples,
            losses=reply.losses,
            epsilon=reply.epsilon,
            ledger=reply.ledger,
            steps=reply.steps,
            seconds=reply.seconds,
            sealing_key=keys.public.sealing,
            masking_key=keys.public.masking,
        )

    def answer(self, request: SecureRequest, *, name: str, federation: Federation, shapes: Shapes) -> SecureReply:
        """Take the next step of the round.

        Args:
            request: What the coordinator asks.
            name: Of this institution.
            federation: The agreement.
            shapes: Of all arrays that institutions train.

        Raises:
            RefusalError: The federation does not aggregate securely.
            ProtocolError: The step is not the next one of this round, or what came with it is malformed.
        """
        agreed = federation.secure_aggregation
        if agreed is None:
            raise RefusalError("This site takes part in secure aggregation only where the federation file has it.")
        this = self._round
        if this is None or this.number != request.round:
            raise ProtocolError(
                f"Expected a round that {name} has trained and not finished, but the request is about round "
                f"{request.round}; its secrets are forgotten after the round and when the site restarts."
            )
        if isinstance(request, SharesRequest):
            return _share(this, request, name, federation, agreed)
        if isinstance(request, MaskRequest):
            return _mask(this, request, name, federation, agreed, shapes)
        reply = _unmask(this, request, name, agreed)
        self._round = None
        return reply


def _share(
    this: _Round, request: SharesRequest, name: str, federation: Federation, agreed: SecureAggregation
) -> SharesReply:
    _next_step(this.shared is None, "secrets are shared once a round")
    sealing, masking = request.sealing_keys, request.masking_keys
    if strangers := sorted(set(sealing) ^ set(masking) | set(sealing) - set(federation.rounds.institutions)):
        raise ProtocolError(f"Expected both public keys of institutions of the federation, but {strangers} differ.")
    directory = {peer: PublicKeys(sealing[peer], masking[peer]) for peer in sealing}
    this.shared = secagg.share_secrets(name, this.keys, directory, threshold=agreed.threshold)
    this.directory = directory
    return SharesReply(
        institution=name, round=this.number, commitment=this.shared.commitment, shares=dict(this.shared.sealed)
    )


def _mask(
    this: _Round,
    request: MaskRequest,
    name: str,
    federation: Federation,
    agreed: SecureAggregation,
    shapes: Shapes,
) -> MaskReply:
    _next_step(this.shared is not None and this.update is not None, "an update is masked once, after shares")
    assert this.shared is not None
    assert this.update is not None
    if len(request.shares) + 1 < agreed.threshold:
        raise ProtocolError(
            f"Expected shares of at least {agreed.threshold - 1} peers, but {len(request.shares)} came."
        )
    held = {
        sender: secagg.open_share(name, this.keys, this.directory, sender=sender, sealed=sealed)
        for sender, sealed in request.shares.items()
    }
    weights = _weights(request.weights, this.update)
    _warn(this.update, agreed.clip)
    vector = fixedpoint.encode(
        this.update,
        weights,
        shapes=shapes,
        clip=agreed.clip,
        fraction_bits=agreed.fraction_bits,
        word=fixedpoint.word_for(len(federation.rounds.institutions), agreed.clip, agreed.fraction_bits),
    )
    masked = secagg.mask(vector, name=name, seed=this.shared.seed, keys=this.keys, directory=this.directory, peers=held)
    this.held = held | {name: this.shared.own}
    this.update = None
    return MaskReply(institution=name, round=this.number, update=masked.tobytes())


def _unmask(this: _Round, request: UnmaskRequest, name: str, agreed: SecureAggregation) -> UnmaskReply:
    _next_step(bool(this.held), "shares are given after the update is masked")
    survivors = set(request.survivors)
    if len(survivors) < agreed.threshold or not survivors <= this.held.keys():
        raise ProtocolError(
            f"Expected at least {agreed.threshold} survivors among {sorted(this.held)}, but {request.survivors} came; "
            "no share is given."
        )
    return UnmaskReply(
        institution=name,
        round=this.number,
        seeds={peer: share.seed.hex() for peer, share in this.held.items() if peer in survivors},
        keys={peer: share.key.hex() for peer, share in this.held.items() if peer not in survivors},
    )


def _next_step(right: bool, rule: str) -> None:
    if not right:
        raise ProtocolError(f"Expected the next step of secure aggregation, but another came: {rule}.")


def _weights(told: Mapping[str, list[float]], update: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each array's weights, shaped to multiply it."""
    if told.keys() != update.keys():
        raise ProtocolError("Expected a weight for every array of the update and for no other.")
    weights = {}
    for name, array in update.items():
        values = np.asarray(told[name], np.float64)
        if values.shape not in ((1,), array.shape[:1]):
            raise ProtocolError(f"Expected one weight of {name}, or one per row, but {values.shape} came.")
        weights[name] = values.reshape(-1, *(1,) * (array.ndim - 1))
    return weights


def _warn(update: Mapping[str, np.ndarray], clip: float) -> None:
    if beyond := sum(int((np.abs(array) > clip).sum()) for array in update.values()):
        log.warning("%d values of the update are beyond secure_aggregation.clip = %g and are cut to it", beyond, clip)
