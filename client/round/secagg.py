"""An institution's side of secure aggregation: its secrets of the round in progress, in memory only.

The order of steps is fixed and each is taken once: a round has one set of keys, one view of who takes part, one masked
update, one signed list of whose updates are to be in the sum, and one answer to what unmasks it. Whatever is asked out
of order is refused, so that nobody gets both a peer's seed and its mask key from here, nor two masked updates under
one set of masks. A new round forgets the last one.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from shared.codec import Arrays
from shared.errors import ProtocolError, RefusalError, listed
from shared.federation import Federation, SecureAggregation
from shared.nodekeys import is_signed, sign
from shared.protocol import (
    ConfirmReply,
    ConfirmRequest,
    MaskReply,
    MaskRequest,
    OpenReply,
    OpenRequest,
    SecureReply,
    SecureRequest,
    SharesReply,
    SharesRequest,
    TrainedReply,
    TrainReply,
    UnmaskReply,
    UnmaskRequest,
)
from shared.secagg import fixedpoint
from shared.secagg.fixedpoint import Shapes
from shared.secagg.keys import Keys, PublicKeys, make_keys
from shared.secagg.masks import mask
from shared.secagg.shares import Share, Shared, open_share, share_secrets
from shared.secagg.view import Context, Member, check_directory, sign_member, survivors_message, view_of
from shared.weighting import Outputs, Shares, check_counted, check_shares, sum_shares

log = logging.getLogger("collegium.client")


@dataclass
class _Round:
    """What an institution keeps from training to unmasking; each step takes away what no later one needs."""

    context: Context
    keys: Keys = field(repr=False)
    own: Member
    update: Arrays | None = field(repr=False)
    directory: dict[str, Member] = field(default_factory=dict)
    shared: Shared | None = field(default=None, repr=False)
    opened: dict[str, Share] = field(default_factory=dict, repr=False)
    """Its shares of the secrets of those who have shared them, itself among them, once it has opened them."""
    view: bytes = b""
    """Of the directory and those who have shared secrets, once the update is masked."""
    weights: Shares = field(default_factory=dict)
    """Of everybody who has shared secrets, from then on."""
    survivors: frozenset[str] = frozenset()
    """Whose updates are to be in the sum, once that is signed."""


@dataclass(frozen=True)
class Participant:
    """An institution, and what it has approved."""

    name: str
    federation: Federation
    shapes: Shapes
    """Of all arrays that institutions train in the round."""
    outputs: Outputs

    @property
    def agreed(self) -> SecureAggregation:
        """Raises RefusalError if the federation does not aggregate securely."""
        agreed = self.federation.secure_aggregation
        if agreed is None:
            raise RefusalError("This site takes part in secure aggregation only where the federation file has it.")
        return agreed


class SecureRounds:
    """One institution in the rounds of a federation with `[secure_aggregation]`.

    Args:
        node_key: What it signs with; the public half stands in the federation file.
    """

    def __init__(self, node_key: ec.EllipticCurvePrivateKey | None = None) -> None:
        self._node_key = node_key
        self._round: _Round | None = None

    def begin(
        self,
        reply: TrainReply,
        update: Mapping[str, np.ndarray],
        federation: Federation,
        *,
        run: str,
        labels: Mapping[str, list[str]],
    ) -> TrainedReply:
        """Begin a round: keep the update that has been trained, and announce signed public keys in its place.

        Args:
            reply: What would leave without secure aggregation, as the site's policy shares it.
            update: What the coordinator would decode of it, by array.
            federation: The agreement.
            run: As the coordinator calls it.
            labels: Per task that has labels, those that this institution annotates.
        """
        keys, context = make_keys(), Context(run, reply.round, federation.digest)
        own = sign_member(context, reply.institution, keys.public, reply.examples, labels, node_key=self._signer)
        self._round = _Round(context, keys, own, dict(update))
        return TrainedReply(
            institution=reply.institution,
            round=reply.round,
            examples=reply.examples,
            losses=reply.losses,
            epsilon=reply.epsilon,
            ledger=reply.ledger,
            steps=reply.steps,
            seconds=reply.seconds,
            sealing_key=own.keys.sealing,
            masking_key=own.keys.masking,
            labels=labels,
            signature=own.signature,
        )

    def answer(self, request: SecureRequest, participant: Participant) -> SecureReply:
        """Take the next step of the round.

        Raises:
            RefusalError: The federation does not aggregate securely.
            ProtocolError: The step is not the next one of this round, or what came with it is malformed.
        """
        agreed, state = participant.agreed, self._round
        if state is None or (state.context.run, state.context.round) != (request.run, request.round):
            raise ProtocolError(
                f"Expected a round that {participant.name} has trained and not finished, but the request is about "
                f"round {request.round} of run {request.run}; its secrets are forgotten after the round and when the "
                "site restarts."
            )
        match request:
            case SharesRequest():
                return _share(state, request, participant, agreed)
            case OpenRequest():
                return _open(state, request, participant)
            case MaskRequest():
                return _mask(state, request, participant, agreed)
            case ConfirmRequest():
                return _confirm(state, request, participant, agreed, self._signer)
            case UnmaskRequest():
                reply = _unmask(state, request, participant, agreed)
                self._round = None
                return reply

    @property
    def _signer(self) -> ec.EllipticCurvePrivateKey:
        if self._node_key is None:
            raise RefusalError("This site has no node key to sign with, and takes part in no secure aggregation.")
        return self._node_key


def _share(state: _Round, request: SharesRequest, participant: Participant, agreed: SecureAggregation) -> SharesReply:
    _next_step(state.shared is None, "secrets are shared once a round")
    names = request.signatures.keys()
    for part in (request.sealing_keys, request.masking_keys, request.examples, request.labels):
        if part.keys() != names:
            raise ProtocolError(f"Expected keys, examples and labels of {listed(sorted(names))}, but some lack.")
    directory = {
        peer: Member(
            PublicKeys(request.sealing_keys[peer], request.masking_keys[peer]),
            request.examples[peer],
            request.labels[peer],
            request.signatures[peer],
        )
        for peer in names
    }
    check_directory(directory, state.context, node_keys=agreed.keys, threshold=agreed.threshold)
    check_counted(directory, participant.outputs)
    if directory.get(participant.name) != state.own:
        raise ProtocolError(
            f"Expected {participant.name} as it has announced itself, but the request has other keys or counts."
        )
    shared = share_secrets(
        participant.name, state.keys, directory, view_of(state.context, directory), threshold=agreed.threshold
    )
    state.directory, state.shared = directory, shared
    return SharesReply(
        institution=participant.name,
        round=state.context.round,
        commitment=shared.commitment,
        shares=dict(shared.sealed),
    )


def _open(state: _Round, request: OpenRequest, participant: Participant) -> OpenReply:
    _next_step(state.shared is not None and not state.opened, "shares are opened once, after secrets are shared")
    assert state.shared is not None
    view, unopened = view_of(state.context, state.directory), []
    for sender, sealed in request.shares.items():
        try:
            state.opened[sender] = open_share(
                participant.name, state.keys, state.directory, view, sender=sender, sealed=sealed
            )
        except ProtocolError as error:
            log.warning("%s", error)
            unopened.append(sender)
    state.opened[participant.name] = state.shared.own
    return OpenReply(institution=participant.name, round=state.context.round, unopened=sorted(unopened))


def _mask(state: _Round, request: MaskRequest, participant: Participant, agreed: SecureAggregation) -> MaskReply:
    _next_step(bool(state.opened) and state.update is not None, "an update is masked once, after shares are opened")
    assert state.shared is not None
    assert state.update is not None
    sharers = _listed(request.sharers, state.opened, agreed.threshold, "who have shared secrets")
    if participant.name not in sharers:
        raise ProtocolError(
            f"Expected {participant.name} among those who have shared secrets, but {listed(sorted(sharers))} came."
        )
    rounds = participant.federation.rounds
    state.weights = sum_shares(
        {name: state.directory[name] for name in sharers},
        shapes=participant.shapes,
        outputs=participant.outputs,
        weighting=rounds.weighting,
        most=rounds.max_share,
    )
    _warn(state.update, agreed.clip)
    vector = fixedpoint.encode_all(
        state.update,
        state.weights[participant.name],
        shapes=participant.shapes,
        clip=agreed.clip,
        fraction_bits=agreed.fraction_bits,
        word=fixedpoint.word_for(len(rounds.institutions), agreed.clip, agreed.fraction_bits),
    )
    state.view = view_of(state.context, state.directory, sharers)
    state.opened = {name: share for name, share in state.opened.items() if name in sharers}
    state.update = None
    masked = mask(
        vector,
        name=participant.name,
        seed=state.shared.seed,
        keys=state.keys,
        directory=state.directory,
        view=state.view,
        peers=sharers - {participant.name},
    )
    return MaskReply(institution=participant.name, round=state.context.round, update=masked.tobytes())


def _confirm(
    state: _Round,
    request: ConfirmRequest,
    participant: Participant,
    agreed: SecureAggregation,
    node_key: ec.EllipticCurvePrivateKey,
) -> ConfirmReply:
    _next_step(bool(state.view) and not state.survivors, "survivors are signed once, after the update is masked")
    survivors = _listed(request.survivors, state.opened, agreed.threshold, "whose masked updates came")
    check_shares(state.weights, survivors, most=participant.federation.rounds.max_share)
    state.survivors = survivors
    signature = sign(node_key, survivors_message(state.view, survivors))
    return ConfirmReply(institution=participant.name, round=state.context.round, signature=signature)


def _unmask(state: _Round, request: UnmaskRequest, participant: Participant, agreed: SecureAggregation) -> UnmaskReply:
    _next_step(bool(state.survivors), "shares are given after the survivors are signed")
    message = survivors_message(state.view, state.survivors)
    signed = {
        name
        for name, signature in request.signatures.items()
        if name in state.survivors and is_signed(agreed.keys[name], message, signature)
    }
    if len(signed) < agreed.threshold:
        raise ProtocolError(
            f"Expected at least {agreed.threshold} institutions to have signed the same survivors as "
            f"{participant.name}, but only {listed(sorted(signed))} have; no share is given."
        )
    return UnmaskReply(
        institution=participant.name,
        round=state.context.round,
        seeds={peer: share.seed.hex() for peer, share in state.opened.items() if peer in state.survivors},
        keys={peer: share.key.hex() for peer, share in state.opened.items() if peer not in state.survivors},
    )


def _next_step(right: bool, rule: str) -> None:
    if not right:
        raise ProtocolError(f"Expected the next step of secure aggregation, but another came: {rule}.")


def _listed(names: list[str], among: Collection[str], threshold: int, what: str) -> frozenset[str]:
    """The names, once it is known that they are enough, each of them there once."""
    distinct = frozenset(names)
    if len(distinct) < threshold or len(distinct) < len(names) or not distinct <= set(among):
        raise ProtocolError(
            f"Expected at least {threshold} of {listed(sorted(among))} {what}, each once, but {listed(names)} came; "
            "nothing is given."
        )
    return distinct


def _warn(update: Mapping[str, np.ndarray], clip: float) -> None:
    if beyond := sum(int((np.abs(array) > clip).sum()) for array in update.values()):
        log.warning("%d values of the update are beyond secure_aggregation.clip = %g and are cut to it", beyond, clip)
