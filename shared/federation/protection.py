"""`[privacy]` and `[secure_aggregation]`: what protects owners, and what protects single updates."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shared.config import Model, Name
from shared.errors import ConfigError
from shared.federation.rounds import Rounds
from shared.nodekeys import NodeKey
from shared.secagg.fixedpoint import word_for

EVALUATION_CLIP = 1.0
"""Of private scores, where nothing else is agreed."""


class Privacy(Model):
    """Differential privacy of the owners of records, by DP-SGD at every institution (Abadi et al. 2016).

    One unit is protected: whatever one owner (`data.TASK.group_by` of an institution, else a single record) contributes
    to all tasks. Neighbouring data sets differ by adding or removing one owner; the sampling rate and the number of
    steps do not depend on the data.
    """

    epsilon: Annotated[float, Field(gt=0)] | None = None
    """What the planned rounds may cost an owner; the noise is calibrated to it. Or give `noise_multiplier`."""
    noise_multiplier: Annotated[float, Field(gt=0)] | None = None
    """Standard deviation of the noise, in units of the largest contribution of an owner."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """Of (epsilon, delta); below one over the number of owners."""
    sampling_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Probability that an owner is in a step (Poisson sampling); large, since a step's noise does not grow with it.

    1 puts all owners in every step, of which a round has `epochs_per_round`; their joint cost is then exact.
    """
    clipping: Literal["flat", "automatic"] = "flat"
    """`flat` scales an owner's gradient down to `clip`; `automatic` scales every one to almost 1 (Bu et al. 2022)."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Longest gradient of an owner over adapter and heads together, as a Euclidean norm; for `flat`."""
    evaluation_epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """What the scores of a run may cost an owner of validation records, and what an owner of test records.

    Every institution then reports scores computed from noisy counts, and the best round may be chosen by them. Without
    it scores are exact and unprotected, or as an institution's own `policy.metrics` has them, and the last round is
    released.
    """
    evaluation_clip: Annotated[float, Field(gt=0, allow_inf_nan=False)] = EVALUATION_CLIP
    """Most that an owner counts in such scores; 1 is one record with one label."""

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise ValueError("give either epsilon or noise_multiplier")
        return self

    def wrong_scores(self, rounds: Rounds, *, counted: bool) -> list[str]:
        """What is wrong with how rounds are chosen by scores, one clause each.

        Args:
            rounds: Of the same file.
            counted: Whether a task has scores that are made of counts.
        """
        if self.evaluation_epsilon is None and rounds.patience:
            return [
                f"with [privacy], rounds.patience must be 0, not {rounds.patience}, since validation records are "
                "private; or give privacy.evaluation_epsilon, what scores may cost them"
            ]
        if self.evaluation_epsilon is not None and not counted:
            return ["with privacy.evaluation_epsilon, [tasks] must hold one whose scores are made of counts"]
        return []


class SecureAggregation(Model):
    """The coordinator sees sums of masked updates only, even if it cheats (`shared.secagg`)."""

    threshold: Annotated[int, Field(ge=2)]
    """Fewest institutions that can unmask a sum: more than two thirds of all, and at most the quorum.

    A coordinator that cheats learns no single update while at most 2 `threshold` - n - 1 of the n institutions collude.
    """
    clip: Annotated[float, Field(gt=0)] = 4.0
    """Largest change of one parameter in a round; larger ones are cut to it."""
    fraction_bits: Annotated[int, Field(ge=8, le=40)] = 24
    """Binary places of the integers that are added up; they are 32 bits wide where all sums fit, else 64."""
    keys: dict[Name, NodeKey] = Field(default_factory=dict)
    """Every institution's public node key, the line in its `.pub` file; the others verify its signatures with it."""

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        owners: dict[str, str] = {}
        for name, key in self.keys.items():
            if (other := owners.setdefault(key, name)) != name:
                raise ValueError(f"keys must be every institution's own, but {other} and {name} have the same")
        return self

    def wrong_numbers(self, rounds: Rounds) -> list[str]:
        """What does not add up with [rounds], one clause each."""
        number, wrong = len(rounds.institutions), []
        if number < 3:
            wrong.append(f"rounds.institutions must name at least 3, since of two each knows the other, not {number}")
        if not 2 * number < 3 * self.threshold:
            wrong.append(f"threshold must be more than two thirds of the {number} institutions, not {self.threshold}")
        if rounds.quorum < self.threshold:
            wrong.append(f"rounds.quorum must be at least the threshold {self.threshold}, not {rounds.quorum}")
        if rounds.max_share * self.threshold < 1:
            wrong.append(
                f"rounds.max_share must be at least 1 / threshold, so that sums are possible, not {rounds.max_share}"
            )
        if named := sorted(set(rounds.institutions) ^ self.keys.keys()):
            wrong.append(
                "[secure_aggregation.keys] must hold one public node key for each of rounds.institutions (`collegium "
                f"server enrol` prints the line), and differs in {named}"
            )
        try:
            word_for(number, self.clip, self.fraction_bits)
        except ConfigError as error:
            wrong.append(str(error))
        return [f"with [secure_aggregation], {clause}" for clause in wrong]
