"""`collegium serve`: released bundles behind a door of HTTP.

A request passes `app.py` (hosts, tokens, routes), `asking.py` (its body) and `service.py`, which makes model input of
it and waits for its place in a batch (`batching.py`).
"""
