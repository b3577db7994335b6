"""Noticing that what records were read from has changed since: between two rounds, and between two starts.

A site trains on what it read when it started. What it reads from is looked at before every round: of files size and
time, and only if these differ, the records; of databases the records.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from client.data.identity import hash_record, owner_of, sha256
from client.data.loading import TaskData, paths_of, read_task
from client.data.readers.options import ASKED
from client.institution import Data
from client.leaving.news import NAME as NEWS
from shared.errors import CollegiumError, joined
from shared.fields import Split
from shared.process.files import private_folder, write_synced
from shared.tasks import Record, Task

log = logging.getLogger(NEWS)
FILE = "data.json"
"""In the state folder: what was read at the last start, as SHA-256s."""
Stamp = tuple[tuple[str, int, int], ...]


@dataclass
class Sources:
    """What a site's records were read from."""

    data: Mapping[str, Data]
    tasks: Mapping[str, Task]
    key: bytes = field(repr=False)
    """The site's, by which records are chosen."""
    private: bool
    read: dict[str, dict[Split, str]]
    """By task and split the `contents_of` the records in use."""
    stamps: dict[str, Stamp] = field(default_factory=dict)
    told: dict[str, dict[Split, str]] = field(default_factory=dict)
    """What was found instead, and has been told."""

    def look(self) -> list[str]:
        """Log what has changed since the site read it, once for each change; the sentences."""
        said = []
        for name, source in self.data.items():
            stamp = stamp_of(source)
            asked = any(source.kind_of(path) in ASKED for path in paths_of(source).values())
            if stamp == self.stamps.get(name) and not asked:
                continue
            self.stamps[name] = stamp
            if (sentence := self._compare(name, source)) is not None:
                log.warning("%s", sentence)
                said.append(sentence)
        return said

    def _compare(self, name: str, source: Data) -> str | None:
        where = joined(dict.fromkeys(paths_of(source).values()))
        try:
            rows = read_task(name, source, self.tasks, self.key, private=self.private)
            rows.raise_any(name)
        except CollegiumError:  # whose text may quote a record
            return (
                f"The records of task {name} in {where} cannot be read any more, and those read before stay in use; "
                "`collegium client doctor` says why."
            )
        found = contents({s: [r for _, r in each] for s, each in rows.used.items()}, self.tasks[name], source)
        if found == self.read[name] or found == self.told.get(name):
            return None
        self.told[name] = found
        before = self.read[name]
        splits = sorted(split for split in found.keys() | before.keys() if found.get(split) != before.get(split))
        return (
            f"The {joined(splits)} records of task {name} in {where} have changed since this site read them; it goes "
            "on with those; start it again to use what is there now."
        )


def open_sources(
    data: Mapping[str, Data],
    tasks: Mapping[str, Task],
    key: bytes,
    *,
    private: bool,
    loaded: Mapping[str, Mapping[Split, TaskData]],
    state: Path,
) -> Sources:
    """What the records in use were read from; logs what has changed since the last start, and remembers what is there.

    Args:
        data: Where the records lie.
        tasks: What reads them.
        key: The site's.
        private: As of `read_task`.
        loaded: The records in use.
        state: The state folder.

    Raises:
        OSError: It cannot be written to.
    """
    read = {
        name: contents({split: each.records for split, each in splits.items()}, tasks[name], data[name])
        for name, splits in loaded.items()
    }
    file = state / FILE
    before: dict[str, dict[Split, str]] = {}
    with suppress(FileNotFoundError, ValueError):  # a broken one is as good as none
        before = json.loads(file.read_text(encoding="utf-8"))
    for name in read.keys() & before.keys():
        if read[name] != before[name]:
            where = joined(dict.fromkeys(paths_of(data[name]).values()))
            log.warning("The records of task %s in %s have changed since this site last started.", name, where)
    if {**before, **read} != before:
        private_folder(state)
        write_synced(file, json.dumps({**before, **read}, indent=1, sort_keys=True).encode())
    return Sources(data, tasks, key, private, read, {name: stamp_of(source) for name, source in data.items()})


def contents(splits: Mapping[Split, Sequence[Record]], task: Task, source: Data) -> dict[Split, str]:
    """`contents_of` the records of each split."""
    return {split: contents_of(records, task, source.group_by) for split, records in splits.items()}


def contents_of(records: Sequence[Record], task: Task, column: str | None) -> str:
    """SHA-256 of some records with their owners and labels, whatever holds them, in whatever order; 64 hex digits.

    Args:
        records: Which `task.check` accepts, masked or not.
        task: What reads them.
        column: `group_by`.
    """
    learnt = [name for name in task.targets if name not in task.places and name not in task.written]
    marks = []
    for record in records:
        what = [hash_record(record, task), owner_of(record, task, column)]
        labels = {name: record[name] for name in learnt if name in record}
        marks.append(sha256(json.dumps([what, labels], sort_keys=True, default=str)))
    return sha256("\n".join(sorted(marks)))


def stamp_of(source: Data) -> Stamp:
    """Name, size and time of all files of a source; less of what is not there."""
    files: list[Path] = []
    for path in paths_of(source).values():
        files += sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    found = []
    for file in files:
        try:
            status = file.stat()
        except OSError:
            continue
        found.append((str(file), status.st_size, status.st_mtime_ns))
    return tuple(found)
