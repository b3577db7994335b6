"""The coordinator's side of secure aggregation: leading institutions through a round of it (`shared.secagg`).

    train    everybody trains, keeps its update and announces public keys
    shares   those who have trained share secrets among each other, sealed; this side passes them on
    mask     each multiplies its update by the weights that it is told, and sends it under masks
    unmask   shares of those secrets, and only those, with which the masks come off the sum

Training comes first, so that an institution that is lost in it, by far the longest step, is never part of the masks.

Weights are told, since they rest on counts that institutions announce anyway: of the adapter and of each row of each
head, as plain averaging (`server.aggregation.fedavg`) would weigh those who have shared secrets. What comes out is a
weighted sum, and it is divided by the weights of those whose masked updates are in it. So the result is that of plain
averaging over the same institutions, within the fixed-point error. One case differs: if an institution is lost between
shares and mask, and `rounds.weighting` gives tasks an equal say, then the others' adapter weights keep their ratios
instead of being balanced by task anew.

A head that a single institution trains is its sum; no aggregation can hide it, and the coordinator says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from server.aggregation import fedavg
from server.aggregation.rows import row_masks
from server.asking import Answer
from server.progress import Run, ask, build_tasks, checked, record, record_spending, require_quorum
from server.replies import check_counts, check_sender
from shared import fixedpoint, secagg
from shared.adapter import is_sent, task_of
from shared.codec import Arrays
from shared.errors import ProtocolError, QuorumError, ReplyError
from shared.federation import SecureAggregation
from shared.protocol import (
    MaskReply,
    MaskRequest,
    SharesReply,
    SharesRequest,
    TrainedReply,
    TrainRequest,
    UnmaskReply,
    UnmaskRequest,
)
from shared.secagg import Directory, PublicKeys

STEP_SECONDS = 120.0
"""Longest wait for the answers of a step that takes an institution no time."""
Weights = Mapping[str, np.ndarray]
"""By array, what an institution's update of it is multiplied by, in a shape that broadcasts to the array's."""


@dataclass(frozen=True)
class _Secure:
    """One round of secure aggregation."""

    run: Run
    agreed: SecureAggregation
    number: int
    shapes: Mapping[str, tuple[int, ...]]
    answers: dict[str, Answer] = field(default_factory=dict)
    """Of those who have trained, until the round's record of them is written."""
    examples: dict[str, Mapping[str, int]] = field(default_factory=dict)
    losses: dict[str, Mapping[str, float]] = field(default_factory=dict)

    def drop(self, answer: Answer, step: str) -> None:
        """Record that an institution's update is not in the sum, and why."""
        trained = self.answers.pop(answer.institution, answer)
        record(
            self.run, self.number, "train", replace(trained, status=answer.status, reason=f"{step}: {answer.reason}")
        )

    def take(self, answer: Answer) -> None:
        """Record that an institution's update is in the sum."""
        name = answer.institution
        trained = self.answers.pop(name)
        both = replace(trained, bytes_up=answer.bytes_up, seconds=trained.seconds + answer.seconds)
        record(self.run, self.number, "train", both, examples=self.examples[name], losses=self.losses[name])


def collect(
    this: Run, state: Mapping[str, np.ndarray], requests: Mapping[str, TrainRequest], number: int
) -> tuple[Arrays, fedavg.Diagnostics]:
    """Train and average under secure aggregation.

    Args:
        this: The run.
        state: The global state.
        requests: By institution.
        number: The round.

    Returns:
        The new state and the diagnostics; nobody's norm is known.

    Raises:
        QuorumError: Fewer institutions than the quorum are left after a step, too few helped to unmask the sum, or the
            sum is not one of honest updates.
    """
    agreed = this.federation.secure_aggregation
    assert agreed is not None
    method = this.federation.method
    shapes = {name: array.shape for name, array in state.items() if is_sent(name, method, number)}
    secure = _Secure(this, agreed, number, shapes)
    directory = _train(secure, requests)
    require_quorum(this, number, directory)
    shares = _share(secure, directory)
    require_quorum(this, number, shares)
    adapter = fedavg.adapter_weights({name: secure.examples[name] for name in shares}, this.federation.rounds.weighting)
    weights = _weights(secure, adapter)
    _say_what_is_not_hidden(secure, list(shares))
    total, survivors = _mask(secure, shares, weights)
    require_quorum(this, number, survivors)
    clear = _unmask(secure, directory, shares, survivors, total)
    told = {name: adapter[name] for name in survivors}
    return _average(secure, state, clear, {name: weights[name] for name in survivors}, told)


def _train(secure: _Secure, requests: Mapping[str, TrainRequest]) -> dict[str, PublicKeys]:
    """The public keys of all who have trained."""
    this, directory = secure.run, dict[str, PublicKeys]()

    def check(reply: TrainedReply, name: str) -> PublicKeys:
        check_counts(reply, requests[name], institution=name, announced=this.announced[name])
        keys = PublicKeys(reply.sealing_key, reply.masking_key)
        try:
            secagg.check_directory(directory | {name: keys}, threshold=1)
        except ProtocolError as error:
            raise ReplyError(f"{name}'s keys: {error}") from error
        return keys

    for answer in ask(this, requests, "train", quorum=this.federation.rounds.quorum):
        good, keys = checked(answer, TrainedReply, check)
        if keys is None:
            record(this, secure.number, "train", good)
            continue
        assert isinstance(answer.reply, TrainedReply)
        name, reply = answer.institution, answer.reply
        record_spending(this, secure.number, name, reply)
        directory[name], secure.answers[name] = keys, replace(answer, reply=None)
        secure.examples[name] = reply.examples
        secure.losses[name] = {task: x for task, x in reply.losses.items() if task in reply.examples and np.isfinite(x)}
    return directory


def _share(secure: _Secure, directory: Directory) -> dict[str, SharesReply]:
    """What each institution has sealed for its peers."""
    this, shares = secure.run, dict[str, SharesReply]()
    quorum = this.federation.rounds.quorum
    request = SharesRequest(
        spec_digest=this.federation.digest,
        round=secure.number,
        sealing_keys={name: keys.sealing for name, keys in directory.items()},
        masking_keys={name: keys.masking for name, keys in directory.items()},
    )

    def check(reply: SharesReply, name: str) -> SharesReply:
        check_sender(reply, request, institution=name)
        if reply.shares.keys() != directory.keys() - {name}:
            raise ReplyError(f"Expected sealed shares for every peer, but {name} has them for {sorted(reply.shares)}.")
        if max(map(len, reply.shares.values())) > secagg.LONGEST_SEALED:
            raise ReplyError(f"Expected at most {secagg.LONGEST_SEALED} characters a peer, but {name} sent more.")
        return reply

    for answer in ask(this, dict.fromkeys(directory, request), "shares", quorum=quorum, longest=STEP_SECONDS):
        good, reply = checked(answer, SharesReply, check)
        if reply is None:
            secure.drop(good, "shares")
        else:
            shares[answer.institution] = reply
    return shares


def _mask(
    secure: _Secure, shares: Mapping[str, SharesReply], weights: Mapping[str, Weights]
) -> tuple[np.ndarray, list[str]]:
    """The sum of the masked updates, and whose are in it."""
    this, agreed, survivors = secure.run, secure.agreed, list[str]()
    number = len(this.federation.rounds.institutions)
    total = np.zeros(fixedpoint.size_of(secure.shapes), fixedpoint.word_for(number, agreed.clip, agreed.fraction_bits))
    requests = {
        name: MaskRequest(
            spec_digest=this.federation.digest,
            round=secure.number,
            shares={sender: reply.shares[name] for sender, reply in shares.items() if sender != name},
            weights={array: weight.ravel().tolist() for array, weight in weights[name].items()},
        )
        for name in shares
    }

    def check(reply: MaskReply, name: str) -> np.ndarray:
        check_sender(reply, requests[name], institution=name)
        if len(reply.update) != total.nbytes:
            raise ReplyError(f"Expected a masked update of {total.nbytes} bytes, but {name} sent {len(reply.update)}.")
        return np.frombuffer(reply.update, total.dtype)

    for answer in ask(this, requests, "mask", quorum=this.federation.rounds.quorum, longest=STEP_SECONDS):
        good, masked = checked(answer, MaskReply, check)
        if masked is None:
            secure.drop(good, "mask")
        else:
            total += masked
            survivors.append(answer.institution)
            secure.take(good)
    return total, survivors


def _unmask(
    secure: _Secure,
    directory: Directory,
    shares: Mapping[str, SharesReply],
    survivors: list[str],
    total: np.ndarray,
) -> np.ndarray:
    """The sum without masks."""
    this, threshold = secure.run, secure.agreed.threshold
    lost = shares.keys() - set(survivors)
    request = UnmaskRequest(spec_digest=this.federation.digest, round=secure.number, survivors=survivors)
    given: dict[str, dict[str, bytes]] = {name: {} for name in shares}

    def check(reply: UnmaskReply, name: str) -> dict[str, bytes]:
        check_sender(reply, request, institution=name)
        if reply.seeds.keys() != set(survivors) or reply.keys.keys() != lost:
            raise ReplyError(f"Expected shares of {survivors} and {sorted(lost)}, but {name} sent others.")
        try:
            return {of: bytes.fromhex(text) for of, text in {**reply.seeds, **reply.keys}.items()}
        except ValueError:
            raise ReplyError(f"Expected shares as hexadecimal text, but {name} sent others.") from None

    for answer in ask(this, dict.fromkeys(survivors, request), "unmask", quorum=threshold, longest=STEP_SECONDS):
        good, pieces = checked(answer, UnmaskReply, check)
        record(this, secure.number, "unmask", good)
        for of, piece in (pieces or {}).items():
            given[of][answer.institution] = piece
    try:
        seeds = {
            name: secagg.recover_seed(given[name], directory, threshold=threshold, commitment=shares[name].commitment)
            for name in survivors
        }
        keys = {name: secagg.recover_key(given[name], directory, threshold=threshold, of=name) for name in lost}
    except ProtocolError as error:
        raise QuorumError(
            f"The sum of round {secure.number} cannot be unmasked: {error} Round {secure.number - 1} is kept, so mend "
            "the institutions named above and resume the run."
        ) from error
    return secagg.unmask(total, seeds=seeds, lost=keys, directory=directory)


def _weights(secure: _Secure, adapter: Mapping[str, float]) -> dict[str, dict[str, np.ndarray]]:
    """What each of those who have shared secrets multiplies its update by: array by array, row by row.

    Args:
        secure: The round.
        adapter: Their weights in the adapter.
    """
    this = secure.run
    weighting, tasks = this.federation.rounds.weighting, build_tasks(this)
    counts = {name: fedavg.counts_for(secure.examples[name], weighting) for name in adapter}
    weights: dict[str, dict[str, np.ndarray]] = {}
    for name, held in counts.items():
        masks = row_masks({task: tasks[task].outputs() for task in held}, this.announced[name].labels)
        weights[name] = {}
        for array, shape in secure.shapes.items():
            task = task_of(array)
            if task is None:
                weights[name][array] = np.full((1,) * len(shape), adapter[name])
            elif task in held:
                share = held[task] / sum(other.get(task, 0) for other in counts.values())
                weights[name][array] = fedavg.row_weights(share, np.empty(shape), masks.get(array))
    return weights


def _say_what_is_not_hidden(secure: _Secure, names: list[str]) -> None:
    """Announce heads that a single institution trains: in the first round, and when others are absent."""
    announced = secure.run.announced
    if "heads" in secure.run.federation.method.keeps:
        return  # they are sent to nobody
    for task in sorted({task for name in names for task in secure.examples[name]}):
        holders = [name for name in names if task in secure.examples[name]]
        others = [name for name, held in announced.items() if task in held.records and name not in holders]
        if len(holders) == 1 and (secure.number == 1 or others):
            secure.run.say(
                f"Round {secure.number}: nobody but {holders[0]} trains the head of {task}, so its update of that head "
                "is not hidden from the coordinator"
            )


def _average(
    secure: _Secure,
    state: Mapping[str, np.ndarray],
    clear: np.ndarray,
    weights: Mapping[str, Weights],
    adapter: Mapping[str, float],
) -> tuple[Arrays, fedavg.Diagnostics]:
    """The state moved by the sums, each divided by the weights that are in it.

    Args:
        secure: The round.
        state: What it began with.
        clear: The sums, as integers.
        weights: By institution, what it multiplied each array by.
        adapter: By institution, its weight in the adapter before others were lost.
    """
    agreed, new = secure.agreed, dict(state)
    slack = len(weights) * 2.0**-agreed.fraction_bits
    for name, total in fixedpoint.decode(clear, shapes=secure.shapes, fraction_bits=agreed.fraction_bits).items():
        weighed = sum((w[name] for w in weights.values() if name in w), np.zeros((1,) * total.ndim))
        if (np.abs(total) > weighed * agreed.clip + slack * (weighed > 0)).any():
            raise QuorumError(
                f"Expected a sum of updates within secure_aggregation.clip in round {secure.number}, but that of "
                f"{name} is beyond: somebody's masked update is false. Round {secure.number - 1} is kept; resume the "
                "run, without one institution after the other if it happens again."
            )
        if weighed.any():
            new[name] = (state[name] + total / np.where(weighed > 0, weighed, 1.0)).astype(np.float32)
    whole = sum(adapter.values())
    return new, fedavg.Diagnostics(
        examples={name: secure.examples[name] for name in weights},
        norms={},
        weights={name: weight / whole for name, weight in adapter.items()},
        norm=fedavg.step_norm(new, state),
    )
