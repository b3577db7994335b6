"""`[training]`: one local round, the same for every institution."""

from typing import Annotated, Literal

from pydantic import Field

from shared.config import Model


class Training(Model):
    """How each institution trains in one round."""

    epochs_per_round: Annotated[int, Field(ge=0, le=100)] = 1
    """Passes over the site's training records per round; 0 sends an empty update (to measure the machinery)."""
    max_seconds: Annotated[float, Field(gt=0)] | None = None
    """Longest training in a round, in seconds: it ends after the step in which they pass, at least after one.

    For institutions whose machines differ much: a slow one takes fewer steps instead of keeping the others waiting.
    Steps are counted as they were taken (`rounds.normalize_steps`). Runs are then no longer repeatable.
    """
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
    """On what the heads read, while training; 0 under [privacy], also where it is left out."""
    proximal_mu: Annotated[float, Field(ge=0)] = 0.0
    """Pulls a round's training back to where it began: mu / 2 times the squared distance (FedProx, Li et al. 2020)."""
    scaffold: bool = False
    """Correct every step for how the site's gradient differs from the mean (SCAFFOLD, Karimireddy et al. 2020).

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
