"""What an institution allows: `[policy]` of its own file, checked in its own process before and after each answer.

A request that breaks a rule raises PolicyError, which names the rule as `policy.KEY`; what an answer reveals in numbers
is reduced to what the policy shares (`client.leaving.disclosure`). Nothing that a coordinator sends can change a rule.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from shared.config import Model, Name
from shared.errors import PolicyError, listed
from shared.fields import Counts, Digest, Split

if TYPE_CHECKING:  # the daemon and the commands read a policy, and have no use for Flower
    from shared.federation import Federation
    from shared.protocol import Request

Owners = Mapping[str, Mapping[Split, int]]
"""Per task and split, how many owners (or records, where none are named) this site holds."""


class Policy(Model):
    """What this site allows, whatever the federation file or the coordinator asks."""

    max_epsilon: Annotated[float, Field(gt=0)] | None = None
    """Most epsilon that an owner here may ever spend; implies `require_dp`.

    Over all tasks, runs and federations that count in one ledger (`runtime.ledger`).
    """
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """At which that epsilon is counted; a federation whose own `privacy.delta` is larger is refused."""
    new_data: Literal["ask", "allow"] | None = None
    """Training data that share no owner and no record with those in the ledger.

    `ask` trains on them after `collegium client ledger --approve`, `allow` at once; by default `ask` under
    `max_epsilon`, else `allow`.
    """
    require_dp: bool = False
    """Refuse every federation that has no `[privacy]`."""
    tasks: tuple[Name, ...] | None = None
    """Tasks that may take part; others under `[data]` are neither read nor announced. Without it, all may."""
    federations: tuple[Digest, ...] | None = None
    """Digests of the federation files that are approved: an edited federation.toml is refused until it is added here.

    Without it, whatever federation.toml holds is approved.
    """
    approve: Literal["ask", "additions"] = "ask"
    """Another federation file that the coordinator offers: `ask` waits for `collegium client approve`.

    `additions` approves by itself one that differs in nothing but further institutions and more rounds. Every other
    change waits, as does more rounds under [privacy], or an institution under [secure_aggregation].
    """
    minimum_owners: Annotated[int, Field(ge=1)] = 1
    """Fewest owners (records, without `group_by`) of a split: with fewer a task is not trained, a split not scored."""
    metrics: Literal["full", "rounded", "private", "none"] = "full"
    """Losses and scores: as they are, to two decimals, private, or none, so that only training takes place here.

    `private` scores are made of counts with noise, and no loss leaves; tasks without such scores, such as
    sentence-similarity, are not scored. The federation's `privacy.evaluation_epsilon` makes `full` and `rounded` so.
    """
    evaluation_epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Most epsilon that an owner of validation or test records may ever spend on private scores.

    Over all runs; a run plans for at most as much. If not given, what the federation plans for one.
    """
    max_evaluations: Annotated[int, Field(ge=1)] | None = None
    """Most states of a run whose scores are reported, including the released one; a repeated state does not count.

    Without it, as many as the federation's rounds need: the initial state, that after each round, the released one.
    """
    counts: Counts = "exact"
    """Records per split and label, and readiness numbers: as they are, to two significant digits, or none at all.

    `none` needs `rounds.weighting = "equal"`: every count that the protocol asks for is then 1.
    """
    max_upload_bytes: Annotated[int, Field(ge=1)] | None = None
    """Largest encoded update, in bytes."""
    max_norm: Annotated[float, Field(gt=0)] | None = None
    """Longest update, as the Euclidean norm over all its arrays; a longer one stays here."""
    hold: bool = False
    """Keep every update in the outbox until it is approved by `collegium client outbox --approve`."""
    hold_seconds: Annotated[float, Field(gt=0)] = 3600.0
    """Seconds that an update waits for that; never beyond the federation's `rounds.deadline_seconds`."""

    @property
    def asks_for_new_data(self) -> bool:
        """`new_data`, with its default."""
        return self.max_epsilon is not None if self.new_data is None else self.new_data == "ask"


def check_request(policy: Policy, request: "Request", federation: "Federation", owners: Owners) -> None:
    """Whether the policy allows any answer but a refusal.

    Args:
        policy: The site's.
        request: What the coordinator asks, under the site's own federation file.
        federation: That file.
        owners: What the site holds.

    Raises:
        PolicyError: A rule is broken; no record, and no number of them, is quoted.
    """
    for objection in objections(policy, federation, owners):
        raise PolicyError(objection)
    from shared.protocol import EvaluateRequest

    if isinstance(request, EvaluateRequest) and not request.released:  # that one is answered with what may be shared
        _check_evaluation(policy, request.split, owners)


def in_force(policy: Policy, federation: "Federation") -> Policy:
    """The policy under an agreement: if that makes scores private, they are private here, or not sent at all."""
    agreed = federation.privacy is not None and federation.privacy.evaluation_epsilon is not None
    if agreed and policy.metrics in ("full", "rounded"):
        return policy.model_copy(update={"metrics": "private"})
    return policy


def check_tasks(policy: Policy, tasks: Collection[str]) -> None:
    """Raise PolicyError if a request is about a task that may not take part."""
    if policy.tasks is not None and (others := sorted(set(tasks) - set(policy.tasks))):
        raise PolicyError(
            f"This site takes part in {listed(policy.tasks)} (policy.tasks), but the request is about "
            f"{listed(others)} too; ask again what it holds."
        )


def offered(policy: Policy, owners: Owners) -> dict[str, set[Split]]:
    """Per task the splits that the coordinator hears of: `train`, and those whose scores may leave."""
    return {
        task: {
            split
            for split, count in splits.items()
            if split == "train" or (policy.metrics != "none" and count >= policy.minimum_owners)
        }
        for task, splits in owners.items()
    }


def objections(policy: Policy, federation: "Federation", owners: Owners) -> Iterator[str]:
    """Every reason why the policy lets no request of an agreement through, with what the site holds."""
    yield from _objections_to(federation, policy)
    for task, splits in owners.items():
        if splits.get("train", 0) < policy.minimum_owners:
            yield (
                f"This site trains {task} with at least {policy.minimum_owners} owners (policy.minimum_owners), but it "
                f"holds fewer; give it more data, or leave {task} out of its policy.tasks."
            )


def _objections_to(federation: "Federation", policy: Policy) -> Iterator[str]:
    if policy.federations is not None and federation.digest not in policy.federations:
        yield (
            f"This site has approved the digests of its policy.federations, but its federation.toml has "
            f"{federation.digest}; add that there once the file has been read and approved."
        )
    weighting = federation.rounds.weighting
    if policy.counts == "none" and weighting != "equal":
        yield (
            f'This site shares no counts (policy.counts = "none"), but rounds.weighting is "{weighting}", which needs '
            'them; agree on "equal".'
        )
    if policy.counts == "none" and federation.rounds.normalize_steps:
        yield (
            'This site shares no counts (policy.counts = "none"), but rounds.normalize_steps needs how many steps it '
            "takes; agree to leave it out."
        )
    privacy = federation.privacy
    if privacy is None:
        if policy.require_dp or policy.max_epsilon is not None:
            rule = "require_dp" if policy.require_dp else "max_epsilon"
            yield (
                f"This site trains with differential privacy only (policy.{rule}), but the federation file has no "
                "[privacy]; agree on one that has."
            )
        return
    if privacy.delta > policy.delta:
        yield (
            f"This site accepts a delta of at most {policy.delta:g} (policy.delta), but the federation's privacy.delta "
            f"is {privacy.delta:g}; agree on a smaller one."
        )
    if policy.max_epsilon is not None and privacy.epsilon is not None and privacy.epsilon > policy.max_epsilon:
        yield (
            f"This site spends at most epsilon {policy.max_epsilon:g} (policy.max_epsilon), but the federation plans "
            f"{privacy.epsilon:g} for the run; agree on a smaller privacy.epsilon."
        )


def _check_evaluation(policy: Policy, split: Split, owners: Owners) -> None:
    if policy.metrics == "none":
        raise PolicyError('This site shares no scores (policy.metrics = "none"); do not ask it to evaluate.')
    tasks = [task for task, splits in owners.items() if split in splits]
    if tasks and not any(split in splits for splits in offered(policy, owners).values()):
        raise PolicyError(
            f"This site scores at least {policy.minimum_owners} owners (policy.minimum_owners), but its {split} "
            "records have fewer; do not ask it to score them."
        )
