"""Auditing: what can be found out about training records from what training gave."""
