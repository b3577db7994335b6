"""Joining a federation, getting a new key, and leaving."""
