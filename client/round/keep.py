"""What a site keeps from round to round and never sends: one file per round, in the folder of its run.

A file appears whole or not at all, and a round reads what an earlier one wrote, so that a round that is trained twice
begins twice from the same. Without a folder everything is in memory, as the simulator wants it.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from shared.codec import Arrays
from shared.errors import ProtocolError, StoreError
from shared.process.files import private_folder, write_synced

RUNS = 3
"""Folders of so many latest runs are kept."""
RUN = re.compile(r"[0-9a-z]{1,32}", re.ASCII)
"""What names a folder here, though the coordinator chooses it."""
SEPARATOR = "|"
Parts = dict[str, Arrays]
"""By what it is for, named arrays."""


class Keep:
    """A site's memory of its rounds."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._rounds: dict[tuple[str, int], Parts] = {}

    def before(self, run: str, round: int) -> Parts:
        """What was kept after the last round before this one; nothing if there was none."""
        return self.upto(run, round - 1)

    def upto(self, run: str, round: int) -> Parts:
        """What was kept after this round, or after the last one before it.

        Raises:
            StoreError: The file cannot be read.
        """
        if self._folder is None:
            kept = [number for of, number in self._rounds if of == run and number <= round]
            return dict(self._rounds[run, max(kept)]) if kept else {}
        files = [file for file in self._of(run).glob("*.safetensors") if int(file.stem) <= round]
        if not files:
            return {}
        file = max(files)
        parts: Parts = {}
        try:
            for key, array in load_file(file).items():
                part, _, name = key.partition(SEPARATOR)
                parts.setdefault(part, {})[name] = array
        except (OSError, SafetensorError) as error:
            raise StoreError(f"Could not read what this site keeps in {file}: {error}.") from error
        return parts

    def after(self, run: str, round: int, parts: Mapping[str, Mapping[str, object]]) -> None:
        """Keep something after a round; what was kept after it, or after a later one, is forgotten.

        Raises:
            StoreError: The disk refuses.
        """
        arrays = {f"{part}{SEPARATOR}{name}": array for part, held in parts.items() for name, array in held.items()}
        if self._folder is None:
            for key in [(of, number) for of, number in self._rounds if of == run and number >= round]:
                del self._rounds[key]
            self._rounds[run, round] = {part: dict(held) for part, held in parts.items()}  # type: ignore[arg-type]
            return
        folder = self._of(run)
        try:
            if not folder.exists():
                self._forget_runs()
                private_folder(folder)
            for file in folder.glob("*.safetensors"):
                if int(file.stem) >= round:
                    file.unlink()
            write_synced(folder / f"{round:05d}.safetensors", save(arrays))  # type: ignore[arg-type]
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
