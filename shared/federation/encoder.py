"""`[backbone]` and `[adapter]`: the frozen BERT, and what is trained beside its weights."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from shared.config import Model
from shared.errors import ConfigError, listed
from shared.federation.rounds import Rounds


class Backbone(Model):
    """The frozen BERT that all institutions start from."""

    name: str = "minilm-l6"
    """`minilm-l6` (bundled), a hub id such as `google-bert/bert-base-uncased`, or a folder."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Fingerprint of configuration, weights and all of the tokenizer; `collegium server init` fills it in."""
    max_length: Annotated[int, Field(ge=16, le=512)] = 256
    """Longest input in sub-tokens; longer texts are cut, longer question-answering contexts are windowed."""


TARGET_PRESETS = {"query,value": ("query", "value"), "all-linear": ("query", "key", "value", "dense")}
"""What `adapter.target_modules` may be besides a list: the linear layers of a BERT."""


def _modules(value: Any) -> Any:
    if isinstance(value, str):
        if value not in TARGET_PRESETS:
            raise ValueError(f"must be a list of layers, or one of {listed(TARGET_PRESETS)}, not {value!r}")
        return TARGET_PRESETS[value]
    return value


TOP = re.compile(r"top-([1-9][0-9]{0,2})", re.ASCII)


def _layers(value: Any) -> Any:
    if isinstance(value, str):
        if value != "all" and not TOP.fullmatch(value):
            raise ValueError(f'must be "all", "top-N" such as "top-3", or a list of layer numbers, not {value!r}')
        return value
    if not isinstance(value, list | tuple) or not value or not all(type(number) is int for number in value):
        raise ValueError(f'must be "all", "top-N" such as "top-3", or a list of layer numbers, not {value!r}')
    if len(set(value)) != len(value) or min(value) < 0:
        raise ValueError(f"must be distinct layer numbers from 0, not {value!r}")
    return tuple(sorted(value))


class Adapter(Model):
    """LoRA (Hu et al. 2021): W = W0 + alpha / rank * B A on the named linear layers."""

    type: Literal["lora", "adalora"] = "lora"
    """`adalora` begins with `rank` in every layer and prunes those components that matter least (Zhang et al. 2023)."""
    rank: Annotated[int, Field(ge=1, le=256)] = 8
    """Inner width r of every factor pair; with `min_rank`, the highest that an institution may have."""
    min_rank: Annotated[int, Field(ge=1, le=256)] | None = None
    """Lowest rank that an institution may choose in its own file; `rank` if not given."""
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
    layers: Annotated[str | tuple[int, ...], BeforeValidator(_layers)] = "all"
    """Which layers of the encoder are adapted: "all", "top-N" (the last N), or numbers from 0, the first one.

    What lies below the lowest of them never changes: an institution computes it once per text, as its memory allows.
    """

    @property
    def prunes(self) -> bool:
        """Whether layers lose components from round to round."""
        return self.type == "adalora"

    @property
    def scale(self) -> float:
        """What the product B A is multiplied by."""
        return float(self.alpha / (self.rank**0.5 if self.rslora else self.rank))

    @property
    def ranks(self) -> range:
        """What an institution's rank may be."""
        return range(self.min_rank or self.rank, self.rank + 1)

    def layer_numbers(self, count: int) -> tuple[int, ...]:
        """Which of an encoder's `count` layers are adapted, ascending.

        Raises:
            ConfigError: It has no such layer.
        """
        if isinstance(self.layers, tuple):
            if unknown := [number for number in self.layers if number >= count]:
                raise ConfigError(
                    f"adapter.layers must be among the backbone's {count} layers, 0 to {count - 1}, not {unknown}."
                )
            return self.layers
        top = int(match[1]) if (match := TOP.fullmatch(self.layers)) else count
        if top > count:
            raise ConfigError(
                f'adapter.layers must be at most "top-{count}", since the backbone has {count} layers, not '
                f'"{self.layers}".'
            )
        return tuple(range(count - top, count))

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

    def wrong_numbers(self, rounds: Rounds) -> list[str]:
        """What does not add up with [rounds], one clause each."""
        if self.type == "lora" or self.warmup_rounds + self.final_rounds <= rounds.count:
            return []
        return [
            f"with adapter.type = 'adalora', adapter.warmup_rounds and adapter.final_rounds must be at most "
            f"rounds.count, {rounds.count}, together, not {self.warmup_rounds} and {self.final_rounds}"
        ]
