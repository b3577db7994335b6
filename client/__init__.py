"""The institution: a daemon beside its own data and GPU that trains and lets out only what was agreed."""
