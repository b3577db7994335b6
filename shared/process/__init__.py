"""Processes, locks, Flower's environment and the terminal."""
