"""Noticing that a federation file was edited while a daemon runs."""

from pathlib import Path

from shared.errors import CollegiumError


class Watched:
    """A federation file, as it was when this was made. Nothing of it is read before it changes.

    Args:
        path: The file; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content = self._read()

    def change(self) -> str | None:
        """What has changed since the last call, as the beginning of a sentence; None if the agreement is the same."""
        content = self._read()
        if content == self._content:
            return None
        before, found = _digest(self._content), _digest(content)
        if not found:  # it is being edited, or wrong: whoever needs it is told
            return None
        self._content = content
        if found == before:
            return None
        return f"{self._path} has changed, from the agreement {before[:12] or 'none'}... to {found[:12]}..."

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError:
            return b""


def _digest(content: bytes) -> str:
    """Of the agreement that a file's content is; empty if it is none."""
    from shared.config import parse_toml  # with what a federation is made of, which a daemon does without
    from shared.federation.agreement import Federation

    try:
        return parse_toml(Federation, content.decode(), where="the federation file").digest
    except (CollegiumError, ValueError):
        return ""
