"""The commented institution.toml that `join` and `init` write."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

from client.institution import Institution
from shared.config import parse
from shared.errors import ConfigError
from shared.federation import Federation
from shared.process.files import write_new
from shared.tasks import TASK_TYPES

DATA = "data"
"""The folder for records, beside the file."""

TEXT = """\
# This institution. The file stays here; every key that may stand in it is in docs/configuration.md.
# Paths start from this file's folder.
name = {name}
federation = "federation.toml"     # the agreement, as the coordinator sends it
{backbone}
[server]
address = {address}
{enrolment}
ca = "ca.crt"                      # the coordinator's CA certificate

[identity]
key = "node.key"                   # proves who you are; it never leaves this machine

# One table for each task that you hold: take the # away from its lines. Files are .jsonl, .json, .csv, .parquet
# or .sql, and folders of several kinds: docs/data.md has an example of each.

{data}

[policy]                           # your own rules, which no coordinator can change
# Nothing is trained under an agreement whose digest does not stand here. Read federation.toml, then see:
#     collegium digest federation.toml
# With a later one that the coordinator offers: collegium client agreement, then add its digest, then approve it.
federations = []
# max_epsilon = 8.0                # privacy budget of each owner, over all runs; implies require_dp
# require_dp = true                # no federation without [privacy]
# hold = true                      # every update waits for `collegium client outbox --approve`
# minimum_owners = 20              # tasks with fewer are not trained

[runtime]
state = "state"                    # logs, receipts, the privacy ledger: keep it with your backups
device = "auto"                    # auto, cpu, cuda, cuda:1
"""
TASK = """\
# {type}: {record}
#[data.{name}]
#train = "{data}/{name}.train.jsonl"
#validation = "{data}/{name}.validation.jsonl"    # without it, a tenth of train's owners is held out
#test = "{data}/{name}.test.jsonl"    # reported, never trained on nor chosen by
#group_by = "patient"    # the column that names each record's owner, whom [privacy] protects as a whole"""
ANY_TASK = {"topics": "text-classification"}
"""What stands in a file that is written before there is an agreement."""


def init_folder(folder: Path, *, name: str, address: str) -> Path:
    """Write institution.toml and an empty folder for data; the path of the former.

    Raises:
        ConfigError: There is such a file already, a value is not allowed, or the folder cannot be written to.
    """
    file = folder / "institution.toml"
    text = institution_text(name, address=address)
    try:
        (folder / DATA).mkdir(parents=True, exist_ok=True)
        write_new(file, text.encode(), 0o600)
    except FileExistsError:
        raise ConfigError(f"Expected no file at {file}, but there is one; edit that, or name another folder.") from None
    except OSError as error:
        raise ConfigError(
            f"Expected to write {file}, but that is not possible ({error.strerror}); choose a folder that you may "
            "write to."
        ) from None
    return file


def institution_text(
    name: str, *, address: str, enrolment: str | None = None, federation: Federation | None = None
) -> str:
    """The file's text, without a task: every table under [data] is still a comment.

    Args:
        name: The institution.
        address: `host:port` of the coordinator's public door.
        enrolment: `host:port` of its enrolment door, if known.
        federation: The agreement, whose tasks are listed.

    Raises:
        ConfigError: A value is not allowed.
    """
    types = {task: spec.type for task, spec in federation.tasks.items()} if federation else ANY_TASK
    local = federation is not None and _is_path(federation.backbone.name)
    text = TEXT.format(
        name=json.dumps(name),  # a string of JSON is one of TOML
        address=_padded(json.dumps(address), "the coordinator's public door"),
        enrolment=f"enrolment = {_padded(json.dumps(enrolment), 'its door for new keys and good-byes', 22)}"
        if enrolment
        else '# enrolment = "HOST:8445"          # its door for new keys and good-byes',
        backbone='# backbone = "bert"                # the folder with the BERT of the agreement, at this site\n'
        if local
        else "",
        data="\n\n".join(_task(task, kind) for task, kind in types.items()),
    )
    _check(text, types)
    return text


def _task(name: str, kind: str) -> str:
    return TASK.format(name=name, type=kind, record=TASK_TYPES[kind].card.record, data=DATA)


def _padded(value: str, comment: str, width: int = 24) -> str:
    return f"{value:{width}} # {comment}"


def _is_path(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~"))


def _check(text: str, types: Mapping[str, str]) -> None:
    """Whether the file is one as soon as a task's lines are comments no more."""
    some = {task: {"train": f"{DATA}/{task}.train.jsonl"} for task in types}
    parse(Institution, {**tomllib.loads(text), "data": some}, where="the institution file")
