"""The federation file: everything that coordinator and institutions must agree on before a run.

`federation.toml` is read once into frozen models. An unknown key is an error, and all errors are reported at once.
`Federation.digest` identifies the agreement; an institution trains only for the digest that it has approved.
"""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, model_validator

from shared.codec import CodecName, Coding, StateCodec
from shared.combinations import wrong_combinations
from shared.config import Model, Name, parse, read_toml
from shared.errors import ConfigError
from shared.filters import FilterName, wrong_filter
from shared.fixedpoint import word_for
from shared.methods import METHODS, Kept, Method, MethodName, choose
from shared.personal import wrong_personal
from shared.pruning import wrong_pruning
from shared.tasks import TaskSpec


class Backbone(Model):
    """The frozen BERT that everybody starts from."""

    name: str = "minilm-l6"
    """`minilm-l6` (bundled), a hub id such as `google-bert/bert-base-uncased`, or a folder."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Fingerprint of weights, vocabulary and configuration; `collegium server init` fills it in."""
    max_length: Annotated[int, Field(ge=16, le=512)] = 256
    """Longest input in sub-tokens; longer texts are cut, longer question-answering contexts are windowed."""


TARGET_PRESETS = {"query,value": ("query", "value"), "all-linear": ("query", "key", "value", "dense")}
"""What `adapter.target_modules` may be besides a list: the linear layers of a BERT."""


def _modules(value: Any) -> Any:
    if isinstance(value, str):
        if value not in TARGET_PRESETS:
            raise ValueError(f"must be a list of layers, or one of {list(TARGET_PRESETS)}, not {value!r}")
        return TARGET_PRESETS[value]
    return value


class Adapter(Model):
    """LoRA (Hu et al. 2021): W = W0 + alpha / rank * B A on the named linear layers."""

    type: Literal["lora", "adalora"] = "lora"
    """`adalora` begins with `rank` in every layer and prunes those components that matter least (Zhang et al. 2023)."""
    rank: Annotated[int, Field(ge=1, le=256)] = 8
    """Inner width r of every factor pair; where `min_rank` is given, the widest that an institution may have."""
    min_rank: Annotated[int, Field(ge=1, le=256)] | None = None
    """The narrowest that an institution may choose in its own file, by its machine; `rank` if not given."""
    target_rank: Annotated[int, Field(ge=1, le=256)] | None = None
    """With `adalora`, the layers' mean rank in the end; half of `rank` if not given."""
    warmup_rounds: Annotated[int, Field(ge=1, le=10_000)] = 1
    """With `adalora`, the first rounds, which all layers train at `rank`."""
    final_rounds: Annotated[int, Field(ge=1, le=10_000)] = 2
    """With `adalora`, the last rounds, which are trained at `target_rank`; the released round is one of these.

    In between the mean rank falls, fast at first (the paper's cubic schedule).
    """
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """Scales the adapter: alpha / rank."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank), so that a higher rank is not scaled down to nothing (Kalajdzievski 2023)."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """On what the adapter reads, while training."""
    target_modules: Annotated[tuple[str, ...], BeforeValidator(_modules), Field(min_length=1)] = TARGET_PRESETS[
        "all-linear"
    ]
    """Names of linear layers, or "query,value" (the paper's own choice), or "all-linear": query, key, value, dense."""

    @property
    def ranks(self) -> range:
        """What an institution's rank may be."""
        return range(self.min_rank or self.rank, self.rank + 1)

    @property
    def target(self) -> int:
        """The layers' mean rank in the end."""
        return self.rank if self.type == "lora" else self.target_rank or max(1, self.rank // 2)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.ranks:
            raise ValueError(f"min_rank must be at most rank, {self.rank}, not {self.min_rank}")
        if self.target_rank is not None and self.type == "lora":
            raise ValueError(f"target_rank {self.target_rank} is given, but only type 'adalora' has one")
        if self.target > self.rank:
            raise ValueError(f"target_rank must be at most rank, {self.rank}, not {self.target_rank}")
        return self


class Training(Model):
    """How each institution trains in one round."""

    epochs_per_round: Annotated[int, Field(ge=0, le=100)] = 1
    """Passes over the site's training records per round; 0 sends an empty update (to measure the machinery)."""
    batch_tokens: Annotated[int, Field(ge=16)] = 2048
    """About how many sub-tokens one step of the optimizer reads: many short texts, or a few long ones."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Starts afresh every round."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of `sgd`; `adamw` has its own (0.9 and 0.999)."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """The highest; `sgd` needs a far higher one than `adamw`."""
    head_learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Of the heads, which begin at random beside a pretrained encoder; as `learning_rate` if not given."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Of adapter and heads alike, decoupled from the gradient under `adamw`."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.06
    """Fraction of the whole run over which the learning rate rises."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate goes on after that: down to zero at the end of the run, or not at all."""
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    """Longest gradient, as the Euclidean norm over adapter and heads; a longer one is scaled down."""
    head_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """On what the heads read, while training."""
    proximal_mu: Annotated[float, Field(ge=0)] = 0.0
    """Pulls a round's training back to where it began: mu / 2 times the squared distance (FedProx, Li et al. 2020)."""
    scaffold: bool = False
    """Correct every step for how the site's gradient differs from everybody's (SCAFFOLD, Karimireddy et al. 2020).

    Twice the bytes both ways; only with plain `sgd`, and where every institution counts alike.
    """
    adversarial_epsilon: Annotated[float, Field(ge=0)] = 0.0
    """Train also on word embeddings perturbed by this much, as a Euclidean norm per row; 0 does not.

    The fast gradient method (Miyato et al. 2017), at the price of a second forward and backward pass. Begin small: with
    the bundled backbone, whose word embeddings are about 1.1 long, four epochs of a small corpus learnt as usual with
    0.05, and next to nothing with 0.5.
    """
    combine: Literal["fixed", "uncertainty", "gradnorm", "dwa", "pcgrad"] = "fixed"
    """How the losses of a site's tasks become one descent; each task's `weight` counts in all of them.

    `fixed`: by those weights alone. `uncertainty` (Kendall et al. 2018), `gradnorm` (Chen et al. 2018) and `dwa`
    (dynamic weight average, Liu et al. 2019) move a factor per task, each institution for itself. `pcgrad` (Yu et al.
    2020) takes from each task's gradient what conflicts with another's, at the price of a backward pass per task.
    """
    sampling: Literal["all", "temperature"] = "all"
    """What an epoch shows: every training record once, or as many as there are, tasks drawn by temperature."""
    sampling_temperature: Annotated[float, Field(ge=1, le=100)] = 2.0
    """With `sampling = "temperature"`: a task of n records is drawn with n^(1/temperature); 1 as large as it is."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` is bfloat16 autocast where the device computes it natively, else float32."""


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
    """Chance of an owner to be in a step (Poisson sampling): large, since a step's noise does not grow with it."""
    clipping: Literal["flat", "automatic"] = "flat"
    """`flat` scales an owner's gradient down to `clip`; `automatic` scales every one to almost 1 (Bu et al. 2022)."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Longest gradient of an owner over adapter and heads together, as a Euclidean norm; for `flat`."""

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise ValueError("give either epsilon or noise_multiplier")
        return self


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
    """What an institution weighs: `tasks` gives every task an equal say in the adapter, `examples` every record.

    `equal` does not look at record counts at all: of a task, every holder has the same weight.
    """
    method: Literal["auto"] | MethodName = "auto"
    """What institutions train and how it becomes one; `collegium methods` says what each of them is.

    `auto`: `flexlora` where institutions have different ranks, `fedavg` where layers get them (`adalora`), else
    `fedsvd` under [privacy], `rolora` under [secure_aggregation], with more than 10 institutions or a rank of at most
    4, and `fedex` otherwise. Where institutions' labels differ strongly, `rolora` is the better choice too.
    """
    normalize_steps: bool = False
    """Average updates per local step, so that who takes more steps does not pull harder (FedNova, Wang et al. 2020)."""
    deadline_seconds: Annotated[float, Field(gt=0)] = 1800.0
    """How long the coordinator waits for the replies of one request."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Stop after this many rounds without a better federated validation score; 0 never stops early."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.institutions)) != len(self.institutions):
            raise ValueError(f"institutions must be named once each, not {list(self.institutions)}")
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
    """How far a round goes; if not given 1 with `fedavgm`, and else 0.01: about how far it moves each parameter."""
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


class Wire(Model):
    """What the arrays look like on the wire; the coordinator adds up in float32 or better."""

    up: CodecName = "float16"
    """Of updates. `int8`, with a scale per row, and `int4`, with one per 32 values, round by chance: right on average.

    `top-k` sends the largest values only, and adds what it left out to the next update, from the site's state folder.
    """
    down: StateCodec = "float16"
    """Of states. What is rounded here is rounded for everybody, and does not add up: the coordinator keeps float32."""
    top_k: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Which fraction of an update's values `top-k` sends."""
    compress: bool = False
    """Lossless on top: bytes of the same significance side by side, then zstd."""

    @property
    def coding_up(self) -> Coding:
        """Of updates."""
        return Coding(self.up, self.compress, self.top_k)

    @property
    def coding_down(self) -> Coding:
        """Of states."""
        return Coding(self.down, self.compress)


class SecureAggregation(Model):
    """The coordinator sees sums of masked updates only (`shared.secagg`)."""

    threshold: Annotated[int, Field(ge=2)]
    """Fewest institutions that can unmask a sum: more than half of all, and at most the quorum."""
    clip: Annotated[float, Field(gt=0)] = 4.0
    """Largest change of one parameter in a round; what goes beyond is cut to it."""
    fraction_bits: Annotated[int, Field(ge=8, le=40)] = 24
    """Binary places of the integers that are added up; they are 32 bits wide where all sums fit, else 64."""


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


class Personal(Model):
    """What every institution has of its own."""

    keep: tuple[Kept, ...] = ()
    """What stays at home and is trained there only: `"heads"`, `"B"` (of the adapter's factors), or both.

    For institutions whose labels contradict each other, or whose tasks have little in common. There is then no global
    model: each institution has its own (`collegium client bundle`). `fedsa` keeps both by itself.
    """
    fine_tune_epochs: Annotated[int, Field(ge=0, le=100)] = 0
    """Passes over an institution's training records that it takes from the released round on; they stay at home."""


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
