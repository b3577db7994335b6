"""Releasing a run: what may be released, the bundle and its signature, and institutions that withdraw later."""
