"""What both sides must agree on: the federation file, the model, the tasks, the wire. Imports neither server nor client."""
