"""The agreement lives: a coordinator offers another federation file, and the institution approves it, or not."""

TOLD = "agreement: "
"""How a line begins in the SuperNode's log that is for the operator."""
