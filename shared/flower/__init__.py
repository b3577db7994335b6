"""All that Collegium takes of Flower beside its documented modules (`flwr.app`, `flwr.clientapp`, `flwr.serverapp`).

Flower may change any of it in any release, so that nothing else imports it: `tests/shared/flower/` holds each name and
what is expected of it, and an upgrade begins there. One module for each use, so that a process loads its own alone.
"""
