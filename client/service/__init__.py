"""The institution's processes: the daemon, Flower's SuperNode, the resident executor."""
