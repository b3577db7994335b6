"""What may be asked of a site, and when: a short list, and a memory of each run that outlives the process.

A request must fit the agreement (its round and number of rounds, steps of frozen weights only where the method makes
them, and to the version that the round implies), and come at its moment: a round follows the last one of its run or
repeats it, and scores are reported of one state per purpose:

    initial      the test records, before the first round
    validation   the validation records, after each round
    common       the test records, of the round that is released, where each institution has another model of its own
    released     the test records, of the institution's own model of that round

Whatever is asked is on disk before it is answered. A request that comes again, as after a lost reply, gets the answer
that it got before; another state is refused. What is remembered of a run has a fixed size, and of the oldest runs
nothing is: to ask as if it were a new one is what a coordinator can do anyway, under a new name.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from shared.errors import PolicyError, ProtocolError, StoreError
from shared.federation import Federation
from shared.fields import Scored, read
from shared.process.files import write_synced
from shared.protocol import EvaluateReply, EvaluateRequest, TrainRequest, body_of

Purpose = Literal["initial", "validation", "common", "released"]
SPLITS: Mapping[Purpose, Scored] = {
    "initial": "test",
    "validation": "validation",
    "common": "test",
    "released": "test",
}
"""The split whose scores are reported for each purpose."""
IN_TURN = ("train", "validation")
"""What is asked round by round."""
AGAIN = ("common", "released")
"""What is asked once more if a run goes on under a longer agreement, which the site has approved."""
RUNS = 16
"""The latest runs that are remembered."""
Memory = dict[str, Any]
"""Of one run: by purpose (and `train`) the last round, and of a score the state's SHA-256 and the answer."""


def purpose_of(request: EvaluateRequest, federation: Federation) -> Purpose:
    """What a score is asked for.

    Raises:
        ProtocolError: No scores are reported for this purpose.
    """
    own = bool(federation.fine_tunes) and not federation.method.keeps
    purpose: Purpose | None = None
    if request.round == 0:
        purpose = None if request.released else "initial"
    elif request.released:
        purpose = "released"
    elif request.split == "validation":
        purpose = "validation"
    elif own:
        purpose = "common"
    if purpose is None or SPLITS[purpose] != request.split:
        raise ProtocolError(
            "Expected to be asked for test scores before the first round, validation scores after a round or test "
            f"scores of the released round, but {request.split} scores of round {request.round} were asked for."
        )
    return purpose


def check_request(request: TrainRequest | EvaluateRequest, federation: Federation) -> None:
    """Whether a request fits the agreement.

    Raises:
        ProtocolError: Its round, the number of rounds, or what it says of the frozen weights does not.
    """
    count = federation.rounds.count
    if request.round > count:
        raise ProtocolError(f"Expected one of the {count} rounds of rounds.count, but round {request.round} came.")
    before = request.round
    if isinstance(request, TrainRequest):
        before -= 1
        if request.rounds != count:
            raise ProtocolError(f"Expected a run of {count} rounds (rounds.count), but one of {request.rounds} came.")
        if request.taken > (before if federation.training.scaffold else 0):
            raise ProtocolError(f"Expected an earlier round's update to be taken, but {request.taken} came.")
    if not federation.method.folds:
        if request.base or request.base_since or request.base_version:
            raise ProtocolError(
                f'Expected no steps of the frozen weights, which method "{federation.method_name}" never moves, but '
                "some came."
            )
        return
    version = f"{request.run}:{before}"
    if request.base_version != version:
        raise ProtocolError(
            f"Expected the frozen weights' version {version!r} for this request, but {request.base_version!r} came."
        )


class Asked:
    """What has been asked of a site, run by run.

    Args:
        folder: Where it is remembered; in memory only if None, as the simulator wants it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._runs: dict[str, Memory] = {}

    def train(self, run: str, round: int) -> None:
        """Remember that a round is trained; it is on disk when this returns.

        Raises:
            ProtocolError: A later round of the run has been trained.
            StoreError: The memory cannot be read or written.
        """
        memory = self._read(run)
        _check_order(memory, "train", round)
        self._write(run, memory | {"train": {"round": round}})

    def evaluate(self, request: EvaluateRequest, purpose: Purpose, most: int | None) -> EvaluateReply | None:
        """Remember that scores are asked for; it is on disk when this returns.

        Args:
            request: For them.
            purpose: Of the request.
            most: How many answers of a run may contain scores; the last is for the released model.

        Returns:
            The answer that the same request got before, if it got one.

        Raises:
            ProtocolError: Scores for this purpose were reported of another state, or of a later round.
            PolicyError: There were as many answers as the policy allows.
            StoreError: The memory cannot be read or written.
        """
        memory, state = self._read(request.run), hashlib.sha256(request.state).hexdigest()
        _check_order(memory, purpose, request.round)
        last = memory.get(purpose)
        if last and purpose in AGAIN and last.get("digest", request.spec_digest) != request.spec_digest:
            last = None
        if last and (last["round"] == request.round or purpose != "validation"):
            if (last["round"], last["state"]) != (request.round, state):
                raise ProtocolError(
                    f"Expected the state whose {purpose} scores have been sent in this run, but another one came; "
                    "there is one answer for each purpose and round."
                )
            return read(EvaluateReply, json.loads(last["answer"])) if last["answer"] else None
        scored = memory.get("told", 0)
        if most is not None and scored >= most - (purpose != "released"):
            raise PolicyError(
                f"This site scores at most {most} states of a run (policy.max_evaluations), the released one among "
                "them, and has scored the others."
            )
        entry = {"round": request.round, "state": state, "answer": None, "digest": request.spec_digest}
        self._write(request.run, memory | {purpose: entry, "told": scored + 1})
        return None

    def answered(self, request: EvaluateRequest, purpose: Purpose, reply: EvaluateReply) -> None:
        """Remember the answer that is about to leave."""
        memory = self._read(request.run)
        self._write(request.run, memory | {purpose: memory[purpose] | {"answer": body_of(reply)}})

    def scored(self, run: str) -> int:
        """How many states of a run have been scored for the coordinator."""
        return int(self._read(run).get("told", 0))

    def _read(self, run: str) -> Memory:
        if self._folder is None:
            return self._runs.get(run, {})
        file = self._folder / f"{run}.json"
        try:
            memory = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        except (OSError, ValueError) as error:
            raise StoreError(f"Could not read what this site was asked in {file}: {error}.") from error
        if not isinstance(memory, dict):
            raise StoreError(f"Expected what this site was asked in {file}, but something else is there.")
        return memory

    def _write(self, run: str, memory: Memory) -> None:
        if self._folder is None:
            self._runs[run] = memory
            return
        file = self._folder / f"{run}.json"
        try:
            if not file.exists():
                self._folder.mkdir(parents=True, exist_ok=True)
                runs = sorted(self._folder.glob("*.json"), key=lambda file: file.stat().st_mtime)
                for old in runs[: max(0, len(runs) - RUNS + 1)]:
                    old.unlink()
            write_synced(file, json.dumps(memory, sort_keys=True).encode())
        except OSError as error:
            raise StoreError(f"Could not write what this site was asked to {file}: {error}; make room.") from error


def _check_order(memory: Memory, what: str, round: int) -> None:
    last = max(memory.get(of, {}).get("round", 0) for of in IN_TURN)
    if what in IN_TURN and round < last:
        raise ProtocolError(
            f"Expected round {last} of this run or a later one, but round {round} came ({what}); a run never goes back."
        )
