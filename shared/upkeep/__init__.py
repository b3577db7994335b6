"""What a machine room asks of a daemon: a copy of its folder while it runs, and a word to the service manager."""
