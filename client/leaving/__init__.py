"""The way out: the gate, receipts of what left, and what waits for a word."""
