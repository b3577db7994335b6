"""BERT, its adapter and the heads."""
