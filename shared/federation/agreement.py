"""The federation file: everything that coordinator and institutions must agree on before a run.

`federation.toml` is read once into frozen models. An unknown key is an error, and all errors are reported at once.
`Federation.digest` identifies the agreement; an institution trains only for the digest that it has approved.
"""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from shared.combinations import wrong_combinations
from shared.config import Model, Name, parse, read_toml
from shared.errors import ConfigError
from shared.federation.encoder import Adapter, Backbone
from shared.federation.protection import Privacy, SecureAggregation
from shared.federation.rounds import Personal, Robust, Rounds, ServerOptimizer, Wire
from shared.federation.training import Training
from shared.filters import wrong_filter
from shared.fixedpoint import word_for
from shared.methods import METHODS, Kept, Method, MethodName, choose
from shared.personal import wrong_personal
from shared.pruning import wrong_pruning
from shared.tasks import TaskSpec


class Federation(Model):
    """One agreement between a coordinator and its institutions."""

    version: Literal[1] = 1
    """Of this file format."""
    name: Name
    """What the federation is called."""
    seed: int = 13
    """Decides the initial heads and adapter, the order of records and dropout."""
    backbone: Backbone
    adapter: Adapter = Adapter()
    tasks: Annotated[dict[str, TaskSpec], Field(min_length=1)]
    training: Training = Training()
    privacy: Privacy | None = None
    personal: Personal | None = None
    rounds: Rounds
    robust: Robust | None = None
    server_optimizer: ServerOptimizer = ServerOptimizer()
    wire: Wire = Wire()
    secure_aggregation: SecureAggregation | None = None

    @model_validator(mode="after")
    def _task_names(self) -> Self:
        for name in self.tasks:
            if not re.match(r"^[a-z][a-z0-9_]{0,47}$", name):
                raise ValueError(f"a task name must be lower-case letters, digits and underscores, not {name!r}")
        return self

    @model_validator(mode="after")
    def _ranks(self) -> Self:
        """Refuse different ranks where one institution's factors do not fit another's."""
        if len(self.adapter.ranks) > 1 and not self.method.mixed_ranks:
            able = [name for name, method in METHODS.items() if method.mixed_ranks]
            raise ValueError(f"with adapter.min_rank, rounds.method must be one of {able}, not {self.method_name!r}")
        return self

    @model_validator(mode="after")
    def _private(self) -> Self:
        """Nothing that [privacy] does not account for may look at the records."""
        if self.privacy is None:
            return self
        training, rounds = self.training, self.rounds
        wrong = [
            f"training.{key} must be {allowed!r}, not {value!r}"
            for key, allowed, value in (
                ("combine", "fixed", training.combine),
                ("sampling", "all", training.sampling),
                ("adversarial_epsilon", 0.0, training.adversarial_epsilon),
                ("weight_decay", 0.0, training.weight_decay),
            )
            if value != allowed
        ]
        if rounds.weighting != "equal":
            wrong.append(f"rounds.weighting must be 'equal', since record counts are private, not {rounds.weighting!r}")
        if rounds.patience:
            wrong.append(f"rounds.patience must be 0, since validation records are private, not {rounds.patience}")
        for name, spec in self.tasks.items():
            if reason := spec.crosses_records():
                wrong.append(f"tasks.{name}: {reason}")
        if wrong:
            raise ValueError("with [privacy], " + "; ".join(wrong))
        return self

    @model_validator(mode="after")
    def _secure(self) -> Self:
        """Refuse what secure aggregation cannot work with."""
        agreed, rounds = self.secure_aggregation, self.rounds
        if agreed is None:
            return self
        number, wrong = len(rounds.institutions), []
        if not self.method.linear:
            summable = [name for name, method in METHODS.items() if method.linear]
            wrong.append(f"rounds.method must be one of {summable}: {self.method_name!r} needs single updates")
        if len(self.adapter.ranks) > 1:
            wrong.append("adapter.min_rank must not be given: masked updates have one shape")
        if number < 3:
            wrong.append(f"rounds.institutions must name at least 3, since of two each knows the other, not {number}")
        if not number < 2 * agreed.threshold:
            wrong.append(f"threshold must be more than half of the {number} institutions, not {agreed.threshold}")
        if rounds.quorum < agreed.threshold:
            wrong.append(f"rounds.quorum must be at least the threshold {agreed.threshold}, not {rounds.quorum}")
        try:
            word_for(number, agreed.clip, agreed.fraction_bits)
        except ConfigError as error:
            wrong.append(str(error))
        if wrong:
            raise ValueError("with [secure_aggregation], " + "; ".join(wrong))
        return self

    @model_validator(mode="after")
    def _together(self) -> Self:
        if wrong := [*wrong_combinations(self), *wrong_filter(self), *wrong_pruning(self), *wrong_personal(self)]:
            raise ValueError("; ".join(wrong))
        return self

    @property
    def method(self) -> Method:
        """What institutions train and how it becomes one; what it keeps at home includes `personal.keep`."""
        method = METHODS[self.method_name]
        wanted = {*method.keeps, *(self.personal.keep if self.personal else ())}
        return replace(method, keeps=tuple(part for part in get_args(Kept) if part in wanted))

    @property
    def fine_tunes(self) -> int:
        """`personal.fine_tune_epochs`."""
        return self.personal.fine_tune_epochs if self.personal else 0

    @property
    def method_name(self) -> MethodName:
        """`rounds.method`, or what it is where the file leaves it open."""
        return self.choice[0]

    @property
    def choice(self) -> tuple[MethodName, str]:
        """The method, and why."""
        if self.rounds.method != "auto":
            return self.rounds.method, "as rounds.method says"
        if self.adapter.type == "adalora":
            return "fedavg", "adapter.type 'adalora' prunes components, and needs A and B trained together"
        return choose(
            institutions=len(self.rounds.institutions),
            rank=self.adapter.rank,
            mixed_ranks=len(self.adapter.ranks) > 1,
            private=self.privacy is not None,
            secure=self.secure_aggregation is not None,
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form: defaults filled in, keys sorted, no white space."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


def load_federation(path: Path) -> Federation:
    """Read `federation.toml`. Raises ConfigError naming every wrong key."""
    return parse(Federation, read_toml(path), where=str(path))
