"""What both sides agree on: federation file, model, tasks, wire. Imports neither server nor client."""
