"""Reading an institution's records: sources, validation, encoding."""
