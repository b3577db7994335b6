"""Copies of what a process keeps while it runs, and how much that is."""
