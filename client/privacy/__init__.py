"""Differential privacy at the institution: what a training costs, and the ledger that adds it up."""
