"""The coordinator's processes: the SuperLink behind its doors, the daemon, the operator's client."""
