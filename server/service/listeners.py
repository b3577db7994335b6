"""The two sockets that the coordinator listens on."""

import socket

from server.home import ServerSettings, bracketed
from shared.errors import ConnectionFailedError

OPERATOR_HOST = "127.0.0.1"


def listen(host: str, port: int, setting: str) -> socket.socket:
    """Bind a listening TCP socket.

    Args:
        host: Address to bind to.
        port: TCP port.
        setting: Name of the port's setting in `server.toml`, for the error.

    Raises:
        ConnectionFailedError: The port is taken or may not be used.
    """
    # asyncio turns Nagle's algorithm off only where a socket says that it is TCP; left on, it adds 40 ms per answer.
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # `::` is every address of IPv4 too
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ConnectionFailedError(
            f"Expected to listen on {bracketed(host)}:{port}, but that is not possible ({error.strerror}); "
            f"stop the program that uses the port or change {setting} in server.toml."
        ) from None
    return listener


def open_listeners(settings: ServerSettings) -> list[socket.socket]:
    """Bind both doors' sockets: the public one, then the operator's.

    Raises:
        ConnectionFailedError: One of the ports is taken or may not be used; neither is left open.
    """
    public = listen(settings.public_host, settings.public_port, "public_port")
    try:
        return [public, listen(OPERATOR_HOST, settings.operator_port, "operator_port")]
    except ConnectionFailedError:
        public.close()
        raise
