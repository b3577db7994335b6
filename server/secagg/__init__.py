"""The coordinator's side of secure aggregation: leading institutions through a round of it (`shared.secagg`).

    train    everybody trains, keeps its update, and announces signed public keys and counts
    shares   those who have trained share secrets among each other, sealed; this side passes them on
    open     everybody opens what was sealed for it; whose shares do not open is left out
    mask     each multiplies its update by its own weight, and sends both under masks
    confirm  each signs whose masked updates came
    unmask   shares of those secrets, and only those, with which the masks come off the sum

Training comes first, so that an institution that is lost in it, by far the longest step, is never part of the masks.

Whoever does not keep to the protocol is left out, and the others go on while they are enough. Weights follow from what
everybody has signed (`shared.weighting`): as plain averaging would weigh those who have shared secrets. What comes out
is a weighted sum and the sum of the weights in it, by which it is divided. So the result is that of plain averaging
over the same institutions, within the fixed-point error. Two cases differ: if an institution is lost between open and
mask, and `rounds.weighting` gives tasks an equal say, then the others' adapter weights keep their ratios instead of
being balanced by task again; and nobody weighs more than `rounds.max_share` of the adapter or of a row of a head, so
that what a single institution holds is not updated.
"""

from collections.abc import Mapping

import numpy as np

from server.aggregation import Result
from server.rounds.collecting import sent_shapes
from server.rounds.run import Run
from server.secagg import confirming, steps
from server.secagg.averaging import average, say_what_does_not_move
from server.secagg.round import SecureRound
from shared.protocol import TrainRequest


def collect(run: Run, state: Mapping[str, np.ndarray], requests: Mapping[str, TrainRequest], number: int) -> Result:
    """Train and average under secure aggregation.

    Args:
        run: In progress.
        state: The model before the round.
        requests: By institution.
        number: The round.

    Returns:
        The new model and the diagnostics; nobody's norm is known.

    Raises:
        QuorumError: Fewer institutions than the quorum are left after a step, too few helped to unmask the sum, one
            would be too large a part of it, or it is not a sum of honest updates.
    """
    secure = SecureRound(run, number, sent_shapes(state, run.federation.method, number))
    steps.train(secure, requests)
    run.require_quorum(number, secure.directory)
    shares = steps.share(secure)
    run.require_quorum(number, shares)
    sharers = steps.open_shares(secure, shares)
    run.require_quorum(number, sharers)
    secure.begin_sum(sharers)
    say_what_does_not_move(secure)
    total, survivors = steps.mask(secure)
    run.require_quorum(number, survivors)
    signatures = confirming.confirm(secure, survivors)
    clear = confirming.unmask(secure, shares, survivors, signatures, total)
    return average(secure, state, clear, survivors)
