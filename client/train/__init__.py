"""The local training loop, and what hangs on it."""
