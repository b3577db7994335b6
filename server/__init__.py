"""The coordinator: enrols institutions, runs the rounds, aggregates, stores and releases."""
