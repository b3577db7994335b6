"""A run's process, `flwr-serverapp` in Flower: it loads the ServerApp and what that needs, no SuperLink beside it."""

import argparse
import os
from queue import Queue

from shared.flower.grid import (
    add_args_flwr_app_common,
    mirror_output_to_queue,
    run_serverapp,
    try_obtain_flwr_app_token,
    validate_and_resolve_root_certificates,
)


def main() -> None:
    """Run the ServerApp of the run whose token comes through standard input; the options are Flower's."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runtime-api-address", required=True)
    add_args_flwr_app_common(parser, include_token_stdin=True)
    asked = parser.parse_args()
    token, said = try_obtain_flwr_app_token(asked), Queue[str | None]()
    os.open(os.devnull, os.O_RDONLY)  # that was closed, and what is opened next would be standard input
    mirror_output_to_queue(said)  # for the run's log at the SuperLink
    run_serverapp(
        runtime_api_address=asked.runtime_api_address,
        log_queue=said,
        token=token,
        insecure=False,
        certificates=validate_and_resolve_root_certificates(asked.root_certificates, insecure=False),
        parent_pid=asked.parent_pid,
    )
