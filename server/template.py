"""The commented federation.toml that `collegium server init` writes."""

import json
import tomllib
from pathlib import Path

from shared.config import parse
from shared.federation import Federation
from shared.model.backbone import beside, fingerprint, locate

TEMPLATE = """\
# What this coordinator and its institutions agree on. Every institution keeps its own copy, and trains only
# under one that it has approved; after a change it is offered the new one. Every key that may stand here is in
# docs/configuration.md; `collegium tasks` lists the types of task.
version = 1
name = {name}
seed = 13

[backbone]
name = {backbone}          # minilm-l6 (bundled), a hub id such as google-bert/bert-base-uncased, or a folder
sha256 = "{sha256}"
max_length = 256           # longest input in sub-tokens

[adapter]                  # LoRA: W = W0 + alpha / rank * B A
rank = 8
alpha = 16.0
dropout = 0.0
target_modules = ["query", "key", "value", "dense"]

# One table per task. An institution may hold any of them.
[tasks.topics]
type = "text-classification"
labels = ["medical", "legal", "financial"]

[tasks.entities]
type = "token-classification"
types = ["Person", "Organisation", "Place"]

[tasks.questions]
type = "question-answering"

[training]                 # what each institution does in one round
epochs_per_round = 1
batch_tokens = 2048        # sub-tokens that one step reads
learning_rate = 1e-3
weight_decay = 0.01
warmup = 0.06              # share of the whole run
clip_norm = 1.0
head_dropout = 0.1
precision = "auto"         # auto, float32 or bfloat16

[rounds]
count = 8
institutions = [{institutions}]
quorum = {quorum}                 # fewest valid updates that make a round
deadline_seconds = 1800.0  # longest wait for an answer
grace_seconds = 120.0      # longest wait, at the start, for those beyond the quorum
patience = 0               # stop after so many rounds without a better validation score; 0 never

[wire]
up = "float16"             # updates: float32, float16, bfloat16, int8, int4 or top-k
down = "float16"           # states: any of these but top-k
compress = false           # zstd on top, lossless

# [release]                # what a model must meet, or `collegium server release` refuses it
# min_worst_score = 0.5    # of any task at any institution that trained it
# licence = "apache-2.0"   # for the card
"""


def federation_template(*, name: str, institutions: list[str], backbone: str) -> str:
    """The template, filled in and known to be a valid federation file.

    Raises:
        BackboneError: There is no such backbone.
        ConfigError: A name is not allowed.
    """
    backbone = beside(backbone, Path.cwd() / "federation.toml")  # as it is meant where the command is typed
    text = TEMPLATE.format(
        name=json.dumps(name),  # a string of JSON is one of TOML
        backbone=json.dumps(backbone),
        sha256=fingerprint(locate(backbone)),
        institutions=", ".join(map(json.dumps, institutions)),
        quorum=max(1, len(institutions) - 1),
    )
    parse(Federation, tomllib.loads(text), where="the options of `collegium server init`")
    return text
