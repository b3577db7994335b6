"""Masking of personal data: what is found (`finding`), what stands in its place (`surrogates`), in records (`records`).

`mask_records` is for records before training, `mask_texts` for requests (`client.answers.masking`).
"""
