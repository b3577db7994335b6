"""Releasing a run: what may be released, the bundle and its signature, and institutions that withdraw later."""

from server.release.making import release, release_run

__all__ = ["release", "release_run"]
