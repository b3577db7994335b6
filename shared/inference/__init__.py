"""Applying a released model: torch, safetensors and tokenizers, without the libraries that build and train one.

Those take twice as long to import as all else that a prediction needs. What is not known here (another kind of BERT, a
tokenizer that brings no `tokenizer.json`) is read by them (`opening.py`).
"""
