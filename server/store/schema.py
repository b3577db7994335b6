"""The tables of the coordinator's memory."""

import sqlalchemy as sa

SCHEMA_VERSION = 6
"""Of the tables below; `migrations.py` says how a store of each earlier version becomes one of the next."""
metadata = sa.MetaData()
RUN = ("run", sa.String(32))
schema = sa.Table("schema_version", metadata, sa.Column("version", sa.Integer, primary_key=True))
UNENDED = ("queued", "starting", "running", "interrupted")
"""Values of `runs.status` of a run that the server goes on with; others are `paused`, `stopped`, `failed`, `completed`.

A queued run waits for its turn, a starting one for its process; an interrupted one is queued again or has failed.
"""
runs = sa.Table(
    "runs",
    metadata,
    sa.Column("run", sa.String(32), primary_key=True),
    sa.Column("federation", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("agreement", sa.Text, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("flower_run", sa.String(32)),
    sa.Column("started", sa.String(32), nullable=False),
    sa.Column("ended", sa.String(32)),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    sa.Column("pausing", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("parent", sa.String(32)),
    sa.Column("parent_round", sa.Integer),
    # What it has asked last, of whom, and when it stops waiting: round, kind, since, until (UTC, ISO 8601), names,
    # and the last reply (its id) before that, since a round may be asked for again.
    sa.Column("asking", sa.JSON(none_as_null=True)),
)
rounds = sa.Table(
    "rounds",
    metadata,
    sa.Column(*RUN, sa.ForeignKey("runs.run"), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("score", sa.Float),
    sa.Column("participants", sa.Integer),
    sa.Column("norm", sa.Float),
)
replies = sa.Table(
    "replies",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column(*RUN, sa.ForeignKey("runs.run"), nullable=False, index=True),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("institution", sa.String(64), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("refusal", sa.String(16)),
    sa.Column("reason", sa.Text),
    sa.Column("bytes_up", sa.BigInteger, nullable=False),
    sa.Column("bytes_down", sa.BigInteger, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("examples", sa.JSON(none_as_null=True)),
    sa.Column("losses", sa.JSON(none_as_null=True)),
    sa.Column("software", sa.String(64)),
)
scores = sa.Table(
    "scores",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column(*RUN, sa.ForeignKey("runs.run"), nullable=False, index=True),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("split", sa.String(16), nullable=False),
    sa.Column("institution", sa.String(64), nullable=False),
    sa.Column("task", sa.String(64), nullable=False),
    sa.Column("metric", sa.String(32), nullable=False),
    sa.Column("value", sa.Float, nullable=False),
    sa.Column("examples", sa.Integer, nullable=False),
)
spending = sa.Table(
    "spending",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column(*RUN, sa.ForeignKey("runs.run"), nullable=False, index=True),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("institution", sa.String(64), nullable=False),
    sa.Column("epsilon", sa.Float, nullable=False),
    sa.Column("ledger", sa.String(96)),
)
evaluations = sa.Table(
    "evaluations",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column(*RUN, sa.ForeignKey("runs.run"), nullable=False, index=True),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("institution", sa.String(64), nullable=False),
    sa.Column("split", sa.String(16), nullable=False),
    sa.Column("epsilon", sa.Float, nullable=False),
    sa.Column("ledger", sa.String(96)),
)
findings = sa.Table(
    "findings",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column(*RUN, sa.ForeignKey("runs.run"), nullable=False, index=True),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("institution", sa.String(64), nullable=False),
    sa.Column("part", sa.String(64), nullable=False),
    sa.Column("filter", sa.String(32), nullable=False),
    sa.Column("norm", sa.Float, nullable=False),
    sa.Column("cosine", sa.Float),
    sa.Column("verdict", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text),
)
cuts = sa.Table(
    "cuts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column(*RUN, sa.ForeignKey("runs.run"), nullable=False, index=True),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("split", sa.String(16), nullable=False),
    sa.Column("institution", sa.String(64), nullable=False),
    sa.Column("task", sa.String(64), nullable=False),
    sa.Column("told", sa.BigInteger, nullable=False),
    sa.Column("used", sa.Float, nullable=False),
)
events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column(*RUN, sa.ForeignKey("runs.run"), nullable=False, index=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("time", sa.String(32)),
)
checkpoints = sa.Table(
    "checkpoints",
    metadata,
    sa.Column(*RUN, sa.ForeignKey("runs.run"), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("file", sa.Text, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
)
releases = sa.Table(
    "releases",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column(*RUN, sa.ForeignKey("runs.run"), nullable=False, index=True),
    sa.Column("round", sa.Integer, nullable=False),
    # The release's id (`shared.bundle.manifest`), and where its bundle was written.
    sa.Column("release", sa.String(64), nullable=False),
    sa.Column("folder", sa.Text, nullable=False),
    sa.Column("time", sa.String(32), nullable=False),
)
# What was said last of an institution counts: that it has withdrawn, or that this was said in error.
withdrawals = sa.Table(
    "withdrawals",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("institution", sa.String(64), nullable=False),
    sa.Column("withdrawn", sa.Boolean, nullable=False),
    sa.Column("time", sa.String(32), nullable=False),
)
