"""Runs as the operator sees them: made, queued, started in their turn, followed, paused, stopped, taken up again."""
