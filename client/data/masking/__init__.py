"""Masking of personal data: what is found (`finding`), what stands in its place (`surrogates`), in records (`records`).

`mask_text` and `mask_records` are functions on plain data, for records before training and for requests at serving.
"""
