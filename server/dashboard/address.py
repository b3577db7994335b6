"""Where the page is, and who may look at it: what `collegium server page` says."""

import secrets
import webbrowser
from dataclasses import asdict, dataclass

from server.enrolment.certificates import server_certificate
from server.home import ServerHome, read_settings
from server.service.operator import OperatorClient
from shared.enrolment.certificates import fingerprint
from shared.errors import StoreError
from shared.process.console import announce, print_json
from shared.process.files import write_synced

ROOT = "/page"
"""The path of the page behind the operator door."""


@dataclass(frozen=True)
class Address:
    """What the operator needs to see the page."""

    url: str
    certificate: str
    """The fingerprint of the certificate that the browser is shown."""
    token_file: str
    viewer_token_file: str | None
    """None while there is no token for viewers."""


def address(home: ServerHome) -> Address:
    """Where the page of a coordinator is that is up.

    Raises:
        ConnectionFailedError: It is not up.
    """
    with OperatorClient(home) as operator:
        operator.nodes()
    viewers = home.viewer_token_file
    return Address(
        url=f"https://localhost:{read_settings(home).operator_port}{ROOT}/",
        certificate=fingerprint(server_certificate(home)),
        token_file=str(home.operator_token_file),
        viewer_token_file=str(viewers) if viewers.exists() else None,
    )


def new_viewer_token(home: ServerHome) -> None:
    """Make a token with which people may look and not act; an earlier one is good no more, at once.

    Raises:
        StoreError: It cannot be written.
    """
    try:
        write_synced(home.viewer_token_file, f"{secrets.token_urlsafe(32)}\n".encode("ascii"))
        home.viewer_token_file.chmod(0o600)
    except OSError as error:
        raise StoreError(f"Could not write {home.viewer_token_file} ({error.strerror}).") from None


def tell(home: ServerHome, *, as_json: bool, show: bool) -> None:
    """Print where the page is and how to sign in; `show` opens it in a browser too. Raises as `address`."""
    found = address(home)
    if as_json:
        print_json(asdict(found))
        return
    print(found.url)
    announce(f"Sign in with the token in {found.token_file}.")
    if found.viewer_token_file:
        announce(f"Who may look and not act signs in with the one in {found.viewer_token_file}.")
    announce(f"Its certificate is {found.certificate}, issued by {home.ca_certificate}.")
    if show and not webbrowser.open(found.url):
        announce("There is no browser here to open it with.")
