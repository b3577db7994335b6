"""The coordinator's page, behind the operator door: what runs, who is missing, how good it is, what it has cost."""
