"""From the sum of the masked updates to the sum itself."""

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from server.secagg.round import SecureRound
from shared.errors import ProtocolError, QuorumError, joined, listed
from shared.nodekeys import is_signed
from shared.protocol import ConfirmReply, ConfirmRequest, SharesReply, UnmaskReply, UnmaskRequest
from shared.secagg import masks, shares
from shared.secagg.view import survivors_message
from shared.weighting import check_shares


def confirm(secure: SecureRound, survivors: Collection[str]) -> dict[str, str]:
    """The signatures of those who agree that these updates are to be in the sum.

    Raises:
        QuorumError: One of them would be too large a part of the sum, or too few have signed.
    """
    run, threshold = secure.run, secure.agreed.threshold
    try:
        check_shares(secure.weights, survivors, most=run.federation.rounds.max_share)
    except ProtocolError as error:
        raise _given_up(secure, str(error)) from error
    request = ConfirmRequest(**secure.of_round(), survivors=sorted(survivors))
    message, signatures = survivors_message(secure.view, survivors), dict[str, str]()
    for good, reply in secure.ask(dict.fromkeys(survivors, request), ConfirmReply, "confirm", quorum=threshold):
        name, answer = good.institution, good
        if reply is not None and not is_signed(secure.agreed.keys[name], message, reply.signature):
            reason = f"Expected the survivors signed by {name}'s node key, but the signature is of something else."
            answer = replace(good, reply=None, status="dropped", reason=reason)
        elif reply is not None:
            signatures[name] = reply.signature
        run.record(secure.number, "confirm", answer)
    if len(signatures) < threshold:
        raise _given_up(secure, f"Expected {threshold} signatures of the survivors, but {len(signatures)} came.")
    return signatures


def unmask(
    secure: SecureRound,
    shared: Mapping[str, SharesReply],
    survivors: Collection[str],
    signatures: Mapping[str, str],
    total: np.ndarray,
) -> np.ndarray:
    """The sum without masks.

    Args:
        secure: The round.
        shared: What everybody has sealed.
        survivors: Whose updates are in the sum.
        signatures: By who has signed these survivors.
        total: The sum of the masked updates.

    Raises:
        QuorumError: Too few true shares came.
    """
    directory, threshold = secure.directory, secure.agreed.threshold
    lost = secure.weights.keys() - set(survivors)
    request = UnmaskRequest(**secure.of_round(), signatures=signatures)
    given: dict[str, dict[str, bytes]] = {name: {} for name in secure.weights}
    for good, reply in secure.ask(dict.fromkeys(signatures, request), UnmaskReply, "unmask", quorum=threshold):
        name, answer, pieces = good.institution, good, dict[str, bytes]()
        if reply is not None:
            try:
                pieces = _pieces(reply, survivors, lost)
            except ValueError:
                reason = f"Expected hexadecimal shares of {listed(sorted(given))}, but {name} sent others."
                answer = replace(good, reply=None, status="dropped", reason=reason)
        secure.run.record(secure.number, "unmask", answer)
        for of, piece in pieces.items():
            given[of][name] = piece
    seeds, keys, failed = dict[str, bytes](), {}, dict[str, str]()
    for name in sorted(given):
        try:
            if name in lost:
                keys[name] = shares.recover_key(given[name], directory, threshold=threshold, of=name)
            else:
                commitment = shared[name].commitment
                seeds[name] = shares.recover_seed(given[name], directory, threshold=threshold, commitment=commitment)
        except ProtocolError as error:
            failed[name] = str(error)
    if failed:
        name, reason = next(iter(failed.items()))
        raise _given_up(secure, f"Of the secrets of {joined(failed)} (and first {name}): {reason}")
    return masks.unmask(total, seeds=seeds, lost=keys, directory=directory, view=secure.view)


def _pieces(reply: UnmaskReply, survivors: Collection[str], lost: Collection[str]) -> dict[str, bytes]:
    """One share of everybody, by whose secret it is of; ValueError if it is not what was asked for."""
    if reply.seeds.keys() != set(survivors) or reply.keys.keys() != set(lost):
        raise ValueError
    return {of: bytes.fromhex(text) for of, text in {**reply.seeds, **reply.keys}.items()}


def _given_up(secure: SecureRound, reason: str) -> QuorumError:
    return QuorumError(
        f"The sum of round {secure.number} cannot be unmasked: {reason} Round {secure.number - 1} is kept, so mend the "
        "institutions named above and resume the run."
    )
