"""Telling the coordinator what this institution has approved, and asking what it offers: one signed request.

Flower's SuperNode asks when it starts, when the coordinator says that there is something new, and when something was
decided here; nobody asks for nothing.
"""

import base64
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from client.agreement import TOLD
from client.agreement.approval import (
    Agreements,
    approve_additions,
    keep_offer,
    read_agreements,
)
from client.institution import Institution, load_institution
from client.keys import read_private_key
from shared.errors import CollegiumError, ConnectionFailedError, EnrolmentError, plain
from shared.federation.offers import LONGEST, PATH, Word, read_offer
from shared.flower.constants import FLEET_HTTP_PUBLIC_KEY_HEADER
from shared.process.proxies import proxy_towards, without_proxies
from shared.signing import HEADER as SIGNATURE
from shared.signing import seconds_ahead, sign_request

SECONDS = 20.0
"""For one request."""
LOOK_SECONDS, RETRY_SECONDS = 10.0, 60.0
"""Between two looks at the files of what was decided here, and between two attempts to tell it."""
OFFERED = "The coordinator offers another agreement"


def ask(institution: Institution, *, transport: httpx.BaseTransport | None = None) -> Agreements:
    """Tell the coordinator what is approved here, and keep what it offers.

    Args:
        institution: Its file.
        transport: In the place of the network, for tests.

    Returns:
        What there is at this site now.

    Raises:
        ConnectionFailedError: The coordinator cannot be reached, or refuses.
        ProtocolError: What it offers is no agreement.
        ConfigError, EnrolmentError, StoreError: A file of this site is wrong, or cannot be written.
    """
    found = read_agreements(institution)
    word = word_of(found)
    body = word.model_dump_json().encode()
    answer = _send(institution, body, transport)
    _, offer = read_offer(answer)
    if offer is not None and offer.digest not in found.approved:
        keep_offer(institution, offer)
    return read_agreements(institution)


def word_of(found: Agreements) -> Word:
    """What is said of it."""
    held = found.offered.digest if found.offered else found.approved[-1]
    return Word(approved=tuple(found.approved), declined=found.declined, holds=held)


class Watch:
    """Asks when there is a reason to, in a thread of the SuperNode's process.

    Args:
        institution_file: The site's institution.toml.
        tell: Gets a line for the operator.
    """

    def __init__(self, institution_file: Path, tell: Callable[[str], None]) -> None:
        self._file, self._print = institution_file, tell
        self._news, self._offered = threading.Event(), ""
        self._told: Word | None = None
        self._announced = ""

    def start(self) -> None:
        """Begin; the thread ends with the process."""
        threading.Thread(target=self._run, name="agreement", daemon=True).start()

    def heard(self, digest: str | None) -> None:
        """Note what the coordinator says to offer with an answer to something else."""
        if digest and digest != self._offered:
            self._offered = digest
            self._news.set()

    def look(self) -> None:
        """Ask if something is new on either side; raises as `ask`."""
        institution = load_institution(self._file)
        before = word_of(read_agreements(institution))
        if before == self._told and not self._news.is_set():
            return
        self._news.clear()
        found = ask(institution)
        added = approve_additions(institution)
        if added:
            self._tell(f"{OFFERED}, {added.digest}, which only adds institutions or rounds: approved (policy.approve).")
            found = ask(institution)
        elif found.offered and found.offered.digest not in (self._announced, found.declined):
            self._tell(f"{OFFERED}, {found.offered.digest}: read it by `collegium client agreement {self._file}`.")
            self._announced = found.offered.digest
        self._told = word_of(found)

    def _tell(self, text: str) -> None:
        self._print(f"{TOLD}{text}")

    def _run(self) -> None:
        wait, last = 0.0, ""
        while True:
            self._news.wait(wait)
            try:
                self.look()
                wait, last = LOOK_SECONDS, ""
            except Exception as error:  # nothing but the process ends this thread
                reason = plain(str(error)) if isinstance(error, CollegiumError) else type(error).__name__
                if reason != last and not isinstance(error, ConnectionFailedError):
                    self._tell(f"The agreement could not be looked at: {reason}")
                wait, last = RETRY_SECONDS, reason
                self._news.clear()


def _send(institution: Institution, body: bytes, transport: httpx.BaseTransport | None, ahead: float = 0.0) -> bytes:
    address, key = institution.server.address, read_private_key(institution.identity.key)
    headers = {
        FLEET_HTTP_PUBLIC_KEY_HEADER: _public(key.public_key()),
        SIGNATURE: sign_request(key, "POST", PATH, body, ahead),
        "content-type": "application/json",
    }
    try:
        trusted = ssl.create_default_context(cafile=str(institution.server.ca))
    except OSError as error:  # SSLError is one
        raise EnrolmentError(
            f"Expected the coordinator's CA certificate in {institution.server.ca}, but it cannot be used ({error})."
        ) from None
    try:
        url = f"https://{address}{PATH}"
        with (
            _client(address, trusted, transport) as client,
            client.stream("POST", url, content=body, headers=headers) as response,
        ):
            if response.status_code == httpx.codes.UNAUTHORIZED and not ahead:
                ahead = seconds_ahead(response.headers.get("date"))
                if ahead:  # one of the two clocks is wrong
                    return _send(institution, body, transport, ahead)
            if response.status_code != httpx.codes.OK:
                raise ConnectionFailedError(
                    f"Expected the coordinator at {address} to hear what this site has approved, but it answered "
                    f"{response.status_code}; it may not know this site's key, or be of an earlier release."
                )
            content = b""
            for piece in response.iter_bytes():
                content += piece
                if len(content) > LONGEST:
                    break
            return content
    except httpx.HTTPError as error:
        raise ConnectionFailedError(
            f"Expected to reach the coordinator at {address}, but it cannot be reached ({type(error).__name__}); "
            "what was decided here is kept, and told once it can be."
        ) from None


def _client(address: str, trusted: ssl.SSLContext, transport: httpx.BaseTransport | None) -> httpx.Client:
    if transport is not None:
        return httpx.Client(transport=transport, timeout=SECONDS)
    if proxy_towards(address) is None:
        with without_proxies():
            return httpx.Client(verify=trusted, timeout=SECONDS)
    return httpx.Client(verify=trusted, timeout=SECONDS)


def _public(key: ec.EllipticCurvePublicKey) -> str:
    return base64.b64encode(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).decode()
