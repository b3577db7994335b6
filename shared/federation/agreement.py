"""The federation file: everything that coordinator and institutions must agree on before a run.

`federation.toml` is read once into frozen models. An unknown key is an error, and all errors are reported at once.
`Federation.digest` identifies the agreement; an institution trains only for the digest that it has approved.
"""

import hashlib
import json
import re
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import tomli_w
from pydantic import Field, model_validator

from shared.config import Model, Name, parse, read_toml
from shared.errors import joined
from shared.federation.encoder import Adapter, Backbone
from shared.federation.methods import METHODS, Kept, Method, MethodName, choose
from shared.federation.protection import Privacy, SecureAggregation
from shared.federation.release import Release
from shared.federation.rounds import Personal, Robust, Rounds, ServerOptimizer, Wire
from shared.federation.rules import violations
from shared.federation.training import Training
from shared.tasks import TaskSpec, build_task

LATER: tuple[str, ...] = ("release",)
"""Keys, such as `rounds.late`, and tables that came after the first release: where one has its default it is neither in
the digest nor written, so that an institution with the release before has the same agreement."""


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
    release: Release | None = None

    @model_validator(mode="after")
    def _task_names(self) -> Self:
        for name in self.tasks:
            if not re.fullmatch(r"[a-z][a-z0-9_]{0,47}", name):
                raise ValueError(f"a task name must be lower-case letters, digits and underscores, not {name!r}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _no_dropout(cls, values: Any) -> Any:
        """Under [privacy] a file that says nothing of `training.head_dropout` has none."""
        if not isinstance(values, dict) or not values.get("privacy"):
            return values
        training = values.get("training", {})
        if isinstance(training, Training):
            training = training.model_dump(exclude_unset=True)
        return {**values, "training": {"head_dropout": 0.0, **training}} if isinstance(training, dict) else values

    @model_validator(mode="after")
    def _together(self) -> Self:
        """Every breach of `rules`, and of what is arithmetic between two tables, in one error."""
        wrong = violations(self) + self.adapter.wrong_numbers(self.rounds)
        if self.privacy:
            crossing = {name: spec.crosses_records() for name, spec in self.tasks.items()}
            wrong += [f"with [privacy], tasks.{name}: {reason}" for name, reason in crossing.items() if reason]
            counted = any(build_task(name, spec).tally for name, spec in self.tasks.items())
            wrong += self.privacy.wrong_scores(self.rounds, counted=counted)
        if self.secure_aggregation:
            wrong += self.secure_aggregation.wrong_numbers(self.rounds)
        if self.robust:
            wrong += self.robust.wrong_numbers(self.rounds)
            sent = [[factor for factor in factors if factor not in self.method.keeps] for factors in self.method.trains]
            wrong += self.robust.wrong_factors(self.method_name, most=max(map(len, sent)))
        if wrong:
            raise ValueError(joined(wrong, "; "))
        return self

    @cached_property
    def method(self) -> Method:
        """What institutions train and how it becomes one; what it keeps at home includes `personal.keep`."""
        method = METHODS[self.method_name]
        wanted = {*method.keeps, *(self.personal.keep if self.personal else ())}
        return replace(method, keeps=tuple(part for part in get_args(Kept) if part in wanted))

    @property
    def narrowest(self) -> int | None:
        """`adapter.min_rank` where institutions may have different ranks, else None."""
        return self.adapter.min_rank if len(self.adapter.ranks) > 1 else None

    @property
    def fine_tunes(self) -> int:
        """`personal.fine_tune_epochs`."""
        return self.personal.fine_tune_epochs if self.personal else 0

    @property
    def method_name(self) -> MethodName:
        """`rounds.method`, or what it is where the file leaves it open."""
        return self.choice[0]

    @cached_property
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

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical form: defaults filled in but for LATER, keys sorted, no white space."""
        canonical = json.dumps(_written(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


def federation_toml(federation: Federation) -> str:
    """The agreement as TOML; reading it back gives the same digest."""
    return tomli_w.dumps(_written(federation, exclude_none=True))


def _written(federation: Federation, **options: Any) -> dict[str, Any]:
    """All keys, but those of LATER that have their defaults."""
    values = federation.model_dump(mode="json", **options)
    for path in LATER:
        *tables, key = path.split(".")
        model: Any = federation
        found = values
        for table in tables:
            model, found = getattr(model, table, None), found.get(table) or {}
        if model is not None and getattr(model, key) == type(model).model_fields[key].default:
            found.pop(key, None)
    return values


def load_federation(path: Path) -> Federation:
    """Read `federation.toml`. Raises ConfigError naming every wrong key."""
    return parse(Federation, read_toml(path), where=str(path))
