"""What the coordinator remembers: runs, rounds, replies, scores, events and checkpoints."""

from server.store.memory import Reply, Score, Store, store_version
from server.store.releases import withdrawn
from server.store.schema import (
    SCHEMA_VERSION,
    UNENDED,
    checkpoints,
    cuts,
    evaluations,
    events,
    findings,
    releases,
    replies,
    rounds,
    runs,
    schema,
    scores,
    spending,
    withdrawals,
)

__all__ = [
    "SCHEMA_VERSION",
    "UNENDED",
    "Reply",
    "Score",
    "Store",
    "checkpoints",
    "cuts",
    "evaluations",
    "events",
    "findings",
    "releases",
    "replies",
    "rounds",
    "runs",
    "schema",
    "scores",
    "spending",
    "store_version",
    "withdrawals",
    "withdrawn",
]
