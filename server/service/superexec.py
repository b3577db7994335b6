"""Flower's SuperExec, which starts a process for each run: a child of `collegium server up`.

Flower's own, `flower-superexec`, writes a run's token on the command line of the process that it starts, where every
user of the machine can read it; whoever has the token speaks to the institutions as the coordinator. Here it comes
through a pipe. Nor does this process load what agents and databases need, half of Flower's own start.
"""

import argparse
import subprocess
from contextlib import suppress

from shared.flower.constants import TaskType, console_handler
from shared.flower.runtime import (
    ExecutionSpec,
    LaunchResult,
    SubprocessExecutor,
    disable_process_dumping,
    load_superexec_auth_secret,
    run_superexec,
)
from shared.process.program import command


class Launcher(SubprocessExecutor):
    """Starts `server.service.serverapp` for a run, and nothing for any other task."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[str]] = []

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """The process, with its token on its standard input."""
        if spec.task_type != TaskType.SERVER_APP or spec.root_certificates_path is None:
            return LaunchResult.failed(f"Expected a run's ServerApp, over TLS, not {spec.task_type}.")
        argv = command("server.service.serverapp", "--runtime-api-address", spec.runtime_api_address, "--token-stdin")
        argv += ["--root-certificates", spec.root_certificates_path, "--parent-pid", str(spec.parent_pid)]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, text=True)
        assert process.stdin
        with suppress(BrokenPipeError), process.stdin as pipe:  # if it is dead already, the SuperLink notices
            pipe.write(f"{spec.token}\n")
        self.started.append(process)
        return LaunchResult.accepted()

    def reconcile(self) -> None:
        """Take leave of those that have ended; SuperExec calls it before every question."""
        self.started = [process for process in self.started if process.poll() is None]


def main() -> None:
    """Ask the SuperLink for runs and start them, until a signal."""
    parser = argparse.ArgumentParser()
    for option in ("--runtime-api-address", "--root-certificates", "--superexec-auth-secret-file"):
        parser.add_argument(option, required=True)
    asked = parser.parse_args()
    console_handler.colored = False  # its output is a file
    disable_process_dumping(strict=False)
    run_superexec.get_executor = lambda *_, **__: Launcher()  # type: ignore[attr-defined]
    run_superexec.run_superexec(
        asked.runtime_api_address,
        insecure=False,
        root_certificates_path=asked.root_certificates,
        superexec_auth_secret=load_superexec_auth_secret(secret_file=asked.superexec_auth_secret_file),
    )
