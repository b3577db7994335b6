"""The round loop, and what asks, checks and remembers around it."""
