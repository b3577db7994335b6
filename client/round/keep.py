"""What a site keeps from round to round and never sends: one file per round, in the folder of its run.

A file appears whole or not at all, and a round reads what an earlier one wrote, so that a round that is trained twice
begins twice from the same. Without a folder everything is in memory, as the simulator wants it.
"""

import re
import shutil
from dataclasses import dataclass, field, fields
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file

from shared.codec import Arrays, as_safetensors
from shared.errors import ProtocolError, StoreError
from shared.process.files import private_folder, write_synced

RUNS = 3
"""Folders of so many latest runs are kept."""
RUN = re.compile(r"[0-9a-z]{1,32}", re.ASCII)
"""What names a folder here, though the coordinator chooses it."""
SEPARATOR = "|"
"""Between the part and the array, in the names of a file."""


@dataclass(frozen=True)
class LocalState:
    """What a site keeps after a round, as named arrays; a file has each part under its name here."""

    home: Arrays = field(default_factory=dict)
    """What `Method.keeps` names of the model."""
    variates: Arrays = field(default_factory=dict)
    """Its control variates c_i (`client.train.drift`)."""
    residual: Arrays = field(default_factory=dict)
    """What `top-k` has not sent yet (`shared.codec.with_feedback`)."""

    @property
    def parts(self) -> dict[str, Arrays]:
        """Those parts that hold anything."""
        found = {part.name: getattr(self, part.name) for part in fields(self)}
        return {name: arrays for name, arrays in found.items() if arrays}


class Keep:
    """A site's memory of its rounds."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._rounds: dict[tuple[str, int], LocalState] = {}

    def before(self, run: str, round: int) -> LocalState:
        """What was kept after the last round before this one; nothing if there was none."""
        return self.upto(run, round - 1)

    def upto(self, run: str, round: int) -> LocalState:
        """What was kept after this round, or after the last one before it.

        Raises:
            StoreError: The file cannot be read.
        """
        if self._folder is None:
            kept = [number for of, number in self._rounds if of == run and number <= round]
            return self._rounds[run, max(kept)] if kept else LocalState()
        files = [file for file in self._of(run).glob("*.safetensors") if int(file.stem) <= round]
        if not files:
            return LocalState()
        file = max(files)
        parts: dict[str, Arrays] = {}
        try:
            for key, array in load_file(file).items():
                part, _, name = key.partition(SEPARATOR)
                parts.setdefault(part, {})[name] = array
            return LocalState(**parts)
        except (OSError, SafetensorError, TypeError) as error:  # TypeError: a part of another name
            raise StoreError(f"Could not read what this site keeps in {file}: {error}.") from error

    def after(self, run: str, round: int, kept: LocalState) -> None:
        """Keep something after a round; what was kept after it, or after a later one, is forgotten.

        Of a round with nothing to keep nothing is written.

        Raises:
            StoreError: The disk refuses.
        """
        if self._folder is None:
            for key in [(of, number) for of, number in self._rounds if of == run and number >= round]:
                del self._rounds[key]
            if kept.parts:
                self._rounds[run, round] = kept
            return
        named = {
            f"{part}{SEPARATOR}{name}": array for part, arrays in kept.parts.items() for name, array in arrays.items()
        }
        folder = self._of(run)
        try:
            for file in folder.glob("*.safetensors"):
                if int(file.stem) >= round:
                    file.unlink()
            if not named:
                return
            if not folder.exists():
                self._forget_runs()
                private_folder(folder)
            write_synced(folder / f"{round:05d}.safetensors", as_safetensors(named))
        except OSError as error:
            raise StoreError(f"Could not write what this site keeps under {folder}: {error}; make room.") from error

    def _of(self, run: str) -> Path:
        assert self._folder is not None
        if not RUN.fullmatch(run):
            raise ProtocolError(f"Expected a run's name as the coordinator's store makes it, not {run!r}.")
        return self._folder / run

    def _forget_runs(self) -> None:
        assert self._folder is not None
        runs = sorted((run for run in self._folder.glob("*") if run.is_dir()), key=lambda run: run.stat().st_mtime)
        for run in runs[: max(0, len(runs) - RUNS + 1)]:
            shutil.rmtree(run)
