"""`[rounds]`, and what becomes of their updates: `[server_optimizer]`, `[robust]`, `[personal]`, `[wire]`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shared.codec import CodecName, Coding, StateCodec
from shared.config import Model, Name
from shared.errors import listed
from shared.federation.filters import FILTERS, FilterName, fewest
from shared.federation.methods import Kept, MethodName

Weighting = Literal["tasks", "examples", "equal"]


class Rounds(Model):
    """Who takes part and how long."""

    count: Annotated[int, Field(ge=1, le=10_000)] = 8
    """Rounds in a run."""
    institutions: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Names of those who take part; nobody else is ever asked."""
    quorum: Annotated[int, Field(ge=1)]
    """Fewest valid updates that make a round."""
    weighting: Weighting = "tasks"
    """An institution's weight in averages.

    `tasks`: every task has the same weight in the adapter; `examples`: every record has. `equal` ignores record counts:
    every holder of a task has the same weight.
    """
    max_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Largest share of a task's weight that one institution may have, in averages of updates and of scores.

    Counts are reported by the institutions, unchecked; what exceeds the share is cut, and shown (`collegium server
    status`). Too few holders for the share have equal weights, as two do by default; 1 accepts every count.
    """
    method: Literal["auto"] | MethodName = "auto"
    """What institutions train and how it is averaged; `collegium methods` describes each of them.

    `auto`: `flexlora` where institutions have different ranks, `fedavg` where layers get them (`adalora`), else
    `fedsvd` under [privacy], `rolora` under [secure_aggregation], with more than 10 institutions or a rank of at most
    4, and `fedex` otherwise. Where institutions' label distributions differ strongly, `rolora` is better.
    """
    normalize_steps: bool = False
    """Average updates per local step, so that institutions with more steps do not dominate (FedNova, Wang et al.

    2020). `max_share` limits an institution's share of the steps as well.
    """
    deadline_seconds: Annotated[float, Field(gt=0)] = 1800.0
    """Seconds that the coordinator waits for the replies to one request."""
    grace_seconds: Annotated[float, Field(ge=0)] = 120.0
    """Seconds that a run with its quorum online waits at its start for the others, who may join later."""
    late: bool = False
    """Whether an agreement that only adds institutions or rounds is in force from the next round of a run under way.

    Once all whom it names have approved it. Otherwise it is from the next run.
    """
    patience: Annotated[int, Field(ge=0)] = 0
    """Stop after this many rounds without a better federated validation score; 0 never stops early."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.institutions)) != len(self.institutions):
            raise ValueError(f"institutions must be named once each, not {listed(self.institutions)}")
        if self.quorum > len(self.institutions):
            raise ValueError(
                f"quorum must be at most the {len(self.institutions)} institutions named, not {self.quorum}"
            )
        return self


class ServerOptimizer(Model):
    """What the coordinator makes of the mean update (Reddi et al. 2021)."""

    type: Literal["none", "fedavgm", "fedadagrad", "fedadam", "fedyogi"] = "none"
    """`none` takes the mean update as it is; the others are momentum and Adagrad, Adam, Yogi on it."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Step size of a round; if not given 1 with `fedavgm`, else 0.01, about how far it moves each parameter."""
    beta_1: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Momentum; if not given 0.9, and 0 with `fedadagrad`."""
    beta_2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """How slowly `fedadam` and `fedyogi` forget how large updates were."""
    tau: Annotated[float, Field(gt=0)] = 1e-3
    """Updates much smaller than this hardly move a parameter."""

    @property
    def rate(self) -> float:
        """The learning rate."""
        return self.learning_rate or (1.0 if self.type == "fedavgm" else 0.01)

    @property
    def momentum(self) -> float:
        """beta_1."""
        return self.beta_1 if self.beta_1 is not None else 0.0 if self.type == "fedadagrad" else 0.9

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        given = [key for key, value in self if value != type(self).model_fields[key].default]
        if self.type == "none" and given:
            raise ValueError(f"server_optimizer.{given[0]} does nothing while server_optimizer.type is 'none'")
        return self


class Wire(Model):
    """What the arrays look like on the wire; the coordinator adds up in float32 or better."""

    up: CodecName = "float16"
    """How updates are encoded.

    `int8` (a scale per row) and `int4` (one per 32 values) round stochastically, without bias. `top-k` sends the
    largest values only, and adds what it left out to the next update, from the site's state folder.
    """
    down: StateCodec = "float16"
    """How states are encoded, the same for all. Rounding errors do not accumulate: the coordinator keeps float32."""
    top_k: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Which fraction of an update's values `top-k` sends."""
    compress: bool = False
    """Compress further, without loss: bytes of the same significance side by side, then zstd."""

    @property
    def coding_up(self) -> Coding:
        """Of updates."""
        return Coding(self.up, self.compress, self.top_k)

    @property
    def coding_down(self) -> Coding:
        """Of states."""
        return Coding(self.down, self.compress)


class Robust(Model):
    """A filter between the institutions' updates and their mean, against poisoned and broken ones."""

    filter: FilterName
    """Over all institutions for the adapter, over its holders for every head; in the space of the products B A.

    `norm-bound` cuts longer steps to the median length. `geometric-median`, `krum` (one is taken) and `multi-krum` (all
    but `byzantine` are taken) go by distances between steps. `fltrust` goes by the step of `root`. `median` and
    `trimmed-mean` (without the `byzantine` highest and lowest) are of every number by itself, and so only for methods
    under which a single factor is sent in a round.
    """
    byzantine: Annotated[int, Field(ge=1)] = 1
    """How many poisoned institutions it must withstand, f: the quorum is at least 2 f + 3 for Krum, else 2 f + 1."""
    root: Name | None = None
    """With `fltrust`, the institution that is trusted: one of your own with a small public data set, for instance."""

    @model_validator(mode="after")
    def _rooted(self) -> Self:
        if (self.filter == "fltrust") != (self.root is not None):
            raise ValueError("robust.root must be given for 'fltrust', and for no other filter")
        return self

    def wrong_numbers(self, rounds: Rounds) -> list[str]:
        """What does not add up with [rounds], one clause each."""
        wrong = []
        if rounds.quorum < (least := fewest(self.filter, self.byzantine)):
            wrong.append(
                f"rounds.quorum must be at least {least}, for {self.filter!r} to withstand {self.byzantine} poisoned "
                f"updates, not {rounds.quorum}"
            )
        if self.root is not None and self.root not in rounds.institutions:
            wrong.append(f"robust.root must be one of {listed(rounds.institutions)}, not {self.root!r}")
        return [f"with [robust], {clause}" for clause in wrong]

    def wrong_factors(self, method: MethodName, most: int) -> list[str]:
        """Whether the filter can judge `most` factors sent in a round."""
        if most <= 1 or not FILTERS[self.filter].by_coordinate:
            return []
        return [
            f"with [robust], robust.filter {self.filter!r} needs a method under which a single factor is sent in a "
            f"round, such as 'rolora', not {method!r}: of two, each may look harmless while their product is not"
        ]


class Personal(Model):
    """What every institution has of its own."""

    keep: tuple[Kept, ...] = ()
    """What stays at home and is trained there only: `"heads"`, `"B"` (of the adapter's factors), or both.

    For institutions whose labels contradict each other, or whose tasks have little in common. There is then no global
    model: each institution has its own (`collegium client bundle`). `fedsa` keeps both by itself.
    """
    fine_tune_epochs: Annotated[int, Field(ge=0, le=100)] = 0
    """Passes over its training records that each institution takes after the released round; the result stays there."""
