"""Measurements against what Collegium is compared with; each prints a table and is run by hand, never as a test."""
