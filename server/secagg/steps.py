"""From training to the sum of the masked updates."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from server.rounds.asking import Answer
from server.rounds.replies import check_counts
from server.rounds.run import checked
from server.secagg.round import SecureRound, vector_length
from shared.errors import ProtocolError, ReplyError
from shared.protocol import (
    MaskReply,
    MaskRequest,
    OpenReply,
    OpenRequest,
    SharesReply,
    SharesRequest,
    TrainedReply,
    TrainRequest,
)
from shared.secagg import fixedpoint
from shared.secagg.keys import PublicKeys
from shared.secagg.shares import LONGEST_SEALED
from shared.secagg.view import Member, check_directory
from shared.weighting import check_counted


def train(secure: SecureRound, requests: Mapping[str, TrainRequest]) -> None:
    """Have everybody train, and take down what those announce who have."""
    run = secure.run

    def check(reply: TrainedReply, name: str) -> Member:
        check_counts(reply, requests[name], institution=name, announced=run.announced[name])
        if (labels := run.announced[name].labels) and {t: sorted(ls) for t, ls in reply.labels.items()} != {
            t: sorted(ls) for t, ls in labels.items()
        }:
            raise ReplyError(f"Expected {name} to annotate the labels that it has announced, but it now names others.")
        member = Member(PublicKeys(reply.sealing_key, reply.masking_key), reply.examples, reply.labels, reply.signature)
        try:
            check_counted({name: member}, secure.outputs)
            together = secure.directory | {name: member}
            check_directory(together, secure.context, node_keys=secure.agreed.keys, threshold=1)
        except ProtocolError as error:
            raise ReplyError(f"{name}'s keys: {error}") from error
        return member

    for answer in run.ask(requests, "train", quorum=run.federation.rounds.quorum):
        good, member = checked(answer, TrainedReply, check)
        if member is None:
            run.record(secure.number, "train", good)
            continue
        assert isinstance(answer.reply, TrainedReply)
        name, reply = answer.institution, answer.reply
        run.record_spending(secure.number, name, reply)
        secure.directory[name], secure.answers[name] = member, replace(answer, reply=None)
        secure.losses[name] = {task: x for task, x in reply.losses.items() if task in reply.examples and np.isfinite(x)}


def share(secure: SecureRound) -> dict[str, SharesReply]:
    """What each institution has sealed for its peers."""
    directory, shares = secure.directory, dict[str, SharesReply]()
    request = SharesRequest(
        **secure.of_round(),
        sealing_keys={name: of.keys.sealing for name, of in directory.items()},
        masking_keys={name: of.keys.masking for name, of in directory.items()},
        examples={name: of.examples for name, of in directory.items()},
        labels={name: {task: list(labels) for task, labels in of.labels.items()} for name, of in directory.items()},
        signatures={name: of.signature for name, of in directory.items()},
    )
    quorum = secure.run.federation.rounds.quorum
    for good, reply in secure.ask(dict.fromkeys(directory, request), SharesReply, "shares", quorum=quorum):
        name = good.institution
        if reply is None:
            secure.drop(good, "shares")
        elif reply.shares.keys() != directory.keys() - {name}:
            _leave_out(secure, good, "shares", f"Expected sealed shares for every peer, but {name} sent others.")
        elif max(map(len, reply.shares.values())) > LONGEST_SEALED:
            reason = f"Expected at most {LONGEST_SEALED} characters a peer, but {name} sent more."
            _leave_out(secure, good, "shares", reason)
        else:
            shares[name] = reply
    return shares


def open_shares(secure: SecureRound, shares: Mapping[str, SharesReply]) -> set[str]:
    """Whose shares everybody who has answered could open.

    Whoever finds so many of them wrong that the others would be too few is not believed, and left out itself.
    """
    requests = {
        name: OpenRequest(
            **secure.of_round(),
            shares={sender: reply.shares[name] for sender, reply in shares.items() if sender != name},
        )
        for name in shares
    }
    opened, complaints = dict[str, Answer](), Counter[str]()
    quorum = secure.run.federation.rounds.quorum
    for good, reply in secure.ask(requests, OpenReply, "open", quorum=quorum):
        name = good.institution
        if reply is None:
            secure.drop(good, "open")
        elif not set(reply.unopened) <= requests[name].shares.keys():
            _leave_out(secure, good, "open", f"Expected names of peers, but {name} sent {reply.unopened}.")
        elif len(shares) - len(set(reply.unopened)) < secure.agreed.threshold:
            _leave_out(secure, good, "open", f"Expected {name} to open its peers' shares, but it finds too many wrong.")
        else:
            opened[name] = good
            complaints.update(set(reply.unopened))
    for name in [name for name in opened if complaints[name]]:
        reason = f"Expected shares that the others can open, but {complaints[name]} cannot open those of {name}."
        _leave_out(secure, opened.pop(name), "open", reason)
    return set(opened)


def mask(secure: SecureRound) -> tuple[np.ndarray, list[str]]:
    """The sum of the masked updates, and whose are in it."""
    run, agreed, survivors = secure.run, secure.agreed, list[str]()
    sharers = sorted(secure.weights)
    word = fixedpoint.word_for(len(run.federation.rounds.institutions), agreed.clip, agreed.fraction_bits)
    total = np.zeros(vector_length(secure), word)
    request = MaskRequest(**secure.of_round(), sharers=sharers)
    quorum = run.federation.rounds.quorum
    for good, reply in secure.ask(dict.fromkeys(sharers, request), MaskReply, "mask", quorum=quorum):
        name = good.institution
        if reply is None:
            secure.drop(good, "mask")
        elif len(reply.update) != total.nbytes:
            reason = f"Expected a masked update of {total.nbytes} bytes, but {name} sent {len(reply.update)}."
            _leave_out(secure, good, "mask", reason)
        else:
            total += np.frombuffer(reply.update, total.dtype)
            survivors.append(name)
            secure.take(good)
    return total, survivors


def _leave_out(secure: SecureRound, answer: Answer, step: str, reason: str) -> None:
    """Record that an institution did not keep to the protocol."""
    secure.drop(replace(answer, reply=None, status="dropped", reason=reason), step)
