"""Secure aggregation under a coordinator that cheats, with one of four institutions at its side: is one update seen?

The coordinator is this module. It may send anything to anybody, knows what every institution sends, and signs with the
node key of `HELPER`.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from shared.errors import CollegiumError, ProtocolError
from shared.nodekeys import sign
from shared.protocol import MaskRequest, OpenRequest, SharesRequest
from shared.secagg import masks
from shared.secagg.keys import make_keys, point
from shared.secagg.view import survivors_message, view_of
from simulations.attacks import Attack, Outcome
from simulations.attacks.played import ADAPTER, HEAD, HELPER, HONEST, NAMES, SHAPES, THRESHOLD, VICTIM, Played
from simulations.nodekeys import node_key

SEEN = 0.95
"""Correlation with an update from which on it counts as seen."""
ROUNDED = 2**-20
"""Far beyond what fixed-point numbers round off."""
PROMISE = "the coordinator learns no single update, even if it cheats and one of four institutions helps it"


def _who_goes_on(played: Played, requests: Iterator[SharesRequest]) -> Outcome:
    """How many false directories an honest institution takes for true."""
    attempts = succeeded = 0
    for request in requests:
        for name in HONEST:
            attempts += 1
            try:
                played.ask(name, request)
            except CollegiumError:
                continue
            succeeded += 1
    for name in HONEST if not succeeded else ():
        played.ask(name, played.directory())  # the true one is still taken: nothing was refused for another reason
    return Outcome(attempts, succeeded)


FORMS: tuple[Callable[[str], str], ...] = (
    lambda text: text,
    lambda text: ("03" if text[1] == "2" else "02") + text[2:],  # the negation
    lambda text: f"04{point(text).public_numbers().x:064x}{point(text).public_numbers().y:064x}",
    lambda text: text.upper(),
    lambda text: f" {text}",
)
"""Ways to write a copy of a key."""


def copied_keys(_: Path) -> Outcome:
    """The helper announces a peer's key as its own in another form, so that a third one's two masks cancel out."""
    played = Played()

    def requests() -> Iterator[SharesRequest]:
        for name in HONEST:
            for form in FORMS:
                for key in ("sealing_key", "masking_key"):
                    for copied in (played.trained[name].sealing_key, played.trained[name].masking_key):
                        yield played.directory({HELPER: played.signed(HELPER, node_key(HELPER), **{key: form(copied)})})

    return _who_goes_on(played, requests())


def own_keys(_: Path) -> Outcome:
    """The coordinator puts keys of its own in the place of a peer's."""
    played, mine = Played(), ec.generate_private_key(ec.SECP384R1())

    def requests() -> Iterator[SharesRequest]:
        for name in HONEST:
            fresh = make_keys().public
            keys: dict[str, Any] = {"sealing_key": fresh.sealing, "masking_key": fresh.masking}
            for by in (mine, node_key(HELPER)):
                yield played.directory({name: played.signed(name, by, **keys)})
            yield played.directory({name: replace(played.trained[name], **keys)})

    return _who_goes_on(played, requests())


def false_weights(_: Path) -> Outcome:
    """Weights (0, 1, 0): everybody but the victim is said to have next to no records, or the victim all of them."""
    played = Played({name: 1000 for name in NAMES})

    def requests() -> Iterator[SharesRequest]:
        few, many = {"clauses": 1}, {"clauses": 10**9, "notes_qa": 10**9}
        others = [name for name in HONEST if name != VICTIM]
        for by in (None, node_key(HELPER), ec.generate_private_key(ec.SECP384R1())):
            for counts in ({name: few for name in others}, {VICTIM: many}, {name: many for name in others}):
                yield played.directory(
                    {
                        name: played.signed(name, by, examples=examples)
                        if by
                        else replace(played.trained[name], examples=examples)
                        for name, examples in counts.items()
                    }
                )

    return _who_goes_on(played, requests())


def replayed(_: Path) -> Outcome:
    """What peers announced in another round, or another run, comes again."""
    played = Played(number=2)
    before, elsewhere = Played(number=1), Played(number=2, run="r2")

    def requests() -> Iterator[SharesRequest]:
        for name in HONEST:
            for other in (before, elsewhere):
                yield played.directory({name: other.trained[name]})

    return _who_goes_on(played, requests())


def replayed_shares(_: Path) -> Outcome:
    """A round that is trained again with a peer's keys and shares of the first time: is the update masked for them?"""
    first, again = Played(), Played()
    old = first.share()
    again.trained = {**again.trained, "bank": first.trained["bank"]}
    attempts = succeeded = 0
    for name in (VICTIM, "clinic"):
        again.ask(name, again.directory())
        opened = again.ask(name, OpenRequest(**again.moment, shares={"bank": old["bank"].shares[name]}))
        for sharers in (NAMES, HONEST, (name, "bank", HELPER)):
            attempts += 1
            try:
                again.ask(name, MaskRequest(**again.moment, sharers=list(sharers)))
                succeeded += 1
            except ProtocolError:
                continue
        assert opened.unopened == ["bank"]
    return Outcome(attempts, succeeded)


def different_views(_: Path) -> Outcome:
    """Institutions get different lists of participants; the seeds of all own masks are given away besides."""
    found, attempts, given = [], 0, 0
    for odd in HONEST:
        played = Played()
        played.open(played.share())
        lists = {name: HONEST if name == odd else NAMES for name in NAMES}
        masked, bare = played.mask(lists), {}
        for name, vector in masked.items():
            view = view_of(played.context, played.members(), lists[name])
            bare[name] = vector - masks.own_mask(played.seed(name), vector, view)
        signatures = played.confirm({name: HONEST if name == odd else NAMES for name in NAMES})
        given += len(played.unmask({odd: signatures}))
        attempts += 1
        sums = [np.asarray(np.sum(list(bare.values()), axis=0, dtype="<u4")), bare[VICTIM]]
        found += [played.likeness(played.decode(vector, NAMES)[ADAPTER]) for vector in sums]
    seen = sum(like > SEEN for like in found) + given
    return Outcome(attempts, seen, f"correlation with the update at most {max(found):.2f}")


def different_survivors(_: Path) -> Outcome:
    """Half are told that the victim's update came, half that it did not: both of its secrets would reveal it."""
    attempts = succeeded = 0
    without = tuple(name for name in NAMES if name != VICTIM)
    for first in ({"bank"}, {"clinic"}, {"bank", "clinic"}):
        played = Played()
        played.open(played.share())
        played.mask(dict.fromkeys(NAMES, NAMES))
        lists = {name: NAMES if name in {*first, VICTIM} else without for name in HONEST}
        signatures = played.confirm(lists)
        view = view_of(played.context, played.members(), NAMES)
        for survivors in (NAMES, without):  # the helper signs whatever helps
            mine = sign(node_key(HELPER), survivors_message(view, survivors))
            shown = {**signatures, HELPER: mine}
            given = played.unmask({name: shown for name in HONEST})
            seeds = sum(VICTIM in reply.seeds for reply in given.values()) + 1
            keys = sum(VICTIM in reply.keys for reply in given.values()) + 1
            attempts += 1
            succeeded += seeds >= THRESHOLD and keys >= THRESHOLD
    return Outcome(attempts, succeeded)


def few_survivors(_: Path) -> Outcome:
    """The victim alone, or with too few others, is said to have survived: is anything given for that sum?"""
    attempts = succeeded = 0
    for survivors in ((VICTIM,), (VICTIM, HELPER), (VICTIM, VICTIM, VICTIM), (VICTIM, "bank")):
        played = Played()
        played.open(played.share())
        played.mask(dict.fromkeys(NAMES, NAMES))
        signatures = played.confirm(dict.fromkeys(NAMES, survivors))
        attempts += 1
        succeeded += bool(played.unmask(dict.fromkeys(HONEST, signatures)))
    return Outcome(attempts, succeeded)


def heavy(_: Path) -> Outcome:
    """One institution has nearly all records, and one task alone: does the sum reveal its update?"""
    played = Played({VICTIM: 10**6})
    shared = played.share()
    played.open(shared)
    masked = played.mask(dict.fromkeys(NAMES, NAMES))
    signatures = played.confirm(dict.fromkeys(NAMES, NAMES))
    total = played.total(NAMES, masked, shared, played.unmask(dict.fromkeys(NAMES, signatures)))
    found = {array: played.likeness(total[array], array) for array in SHAPES}
    note = f"correlation {found[ADAPTER]:.2f} in the adapter, {found[HEAD]:.2f} in the head that it alone trains"
    return Outcome(len(found), sum(like > SEEN for like in found.values()), note)


def malformed_share(_: Path) -> Outcome:
    """One institution deals a share that does not open: do the others give up, or is it not found out?"""
    attempts = succeeded = 0
    for target in HONEST:
        played = Played()
        shared = played.share()
        opened = played.open(shared, {target: {HELPER: "x"}})
        blamed = {sender for reply in opened.values() for sender in reply.unopened}
        masked = played.mask(dict.fromkeys(HONEST, HONEST))
        signatures = played.confirm(dict.fromkeys(HONEST, HONEST))
        shown = {name: signatures for name in HONEST}
        total = played.total(HONEST, masked, shared, played.unmask(shown))[ADAPTER]
        weights = played.weights(HONEST)
        right = np.sum([weights[name][ADAPTER] * played.updates[name][ADAPTER] for name in HONEST], axis=0)
        attempts += 1
        succeeded += blamed != {HELPER} or bool(np.abs(total - right).max() > ROUNDED)
    return Outcome(attempts, succeeded)


COORDINATOR = "a coordinator"
ATTACKS = (
    Attack("weights that leave only one update in the sum", COORDINATOR, PROMISE, false_weights),
    Attack("a peer's key, copied as it is, negated or in another encoding", COORDINATOR, PROMISE, copied_keys),
    Attack("the coordinator's own keys in place of a peer's", COORDINATOR, PROMISE, own_keys),
    Attack("keys and counts of another round or run", COORDINATOR, PROMISE, replayed),
    Attack("shares of the same round, trained before", COORDINATOR, PROMISE, replayed_shares),
    Attack("different lists of participants sent to different institutions", COORDINATOR, PROMISE, different_views),
    Attack("different lists of survivors sent to different institutions", COORDINATOR, PROMISE, different_survivors),
    Attack("a sum over fewer institutions than the threshold", COORDINATOR, PROMISE, few_survivors),
    Attack("a sum dominated by one institution", COORDINATOR, PROMISE, heavy),
    Attack(
        "one malformed share",
        "an institution",
        "whoever breaks the protocol of secure aggregation is excluded, and the others continue",
        malformed_share,
    ),
)
