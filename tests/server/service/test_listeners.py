import socket
from pathlib import Path

import pytest

from server.service.listeners import listen
from shared.errors import ConnectionFailedError

needs_ipv6 = pytest.mark.skipif(
    not Path("/proc/net/if_inet6").exists() or not Path("/proc/net/if_inet6").read_text(),
    reason="this machine has no IPv6",
)


@needs_ipv6
def test_all_addresses_are_those_of_both_kinds() -> None:
    with listen("::", 0, "public_port") as listener:
        port = listener.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), timeout=5).close()


@needs_ipv6
def test_a_port_that_is_taken_is_named_as_one_types_it() -> None:
    with listen("::1", 0, "public_port") as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConnectionFailedError, match=rf"\[::1\]:{port}.*public_port"):
            listen("::1", port, "public_port")
