"""What every request to a page passes before anything else: host, cookie, origin, and the headers of every answer.

A page listens on loopback, where three are to be kept out: another user of the machine, who can reach the port and has
no token; another site in the operator's browser, which can send forms and name this machine by a host of its own; and
an institution, whose words are shown here and must stay words.
"""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.page.sessions import LIFETIME_SECONDS, Session, Sessions

HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
"""Any other was named by somebody else, who has had a name of theirs lead to this machine."""
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # not `no-referrer`: a browser would then name no origin with a form
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
LONGEST_FORM, FORM_SECONDS = 16_384, 10.0
TOO_MANY = "Too many attempts to sign in: wait a minute, then try again."

Ask = Callable[[int, str], Response]
"""Makes the page that asks for a token: the status, and what to say."""


@dataclass(frozen=True)
class Place:
    """Where a page is.

    Attributes:
        root: The path before all of its paths, such as `/page`; without a slash at its end. The cookie is for it.
        entry: The path before those of the page that asks for the token, and of static files, which all may see.
        cookie: The cookie's name.
        secure: Whether it is served over TLS.
    """

    root: str
    entry: str
    cookie: str
    secure: bool

    @property
    def scheme(self) -> str:
        """Of its addresses."""
        return "https" if self.secure else "http"


class Guard:
    """Lets requests through to a page: `scope["session"]` and, of a POST, `scope["form"]` are then set.

    Args:
        app: The page. Its POST routes are for operators.
        place: Where it is.
        sessions: Who is signed in.
        ask: Makes the page that asks for a token.
    """

    def __init__(self, app: ASGIApp, place: Place, sessions: Sessions, ask: Ask) -> None:
        self._app, self._place, self._sessions, self._ask = app, place, sessions, ask
        self._sign_in, self._sign_out = f"{place.entry}/sign-in", f"{place.root}/sign-out"
        self._static = f"{place.entry}/static/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            return
        static = scope["path"].startswith(self._static)
        answer = _with_headers(send, {} if static else {"cache-control": "no-store"})
        refused = _foreign(scope, self._place)
        if refused is not None:
            return await refused(scope, receive, answer)
        if static and scope["method"] in ("GET", "HEAD"):
            return await self._app(scope, receive, answer)
        form: Mapping[str, str] = {}
        if scope["method"] == "POST":
            try:
                found = await asyncio.wait_for(_read_form(receive), FORM_SECONDS)
            except TimeoutError:
                return await _refusal(408, "The form did not come in time.")(scope, receive, answer)
            if found is None:
                return await _refusal(413, "Too large")(scope, receive, answer)
            form = found
        elif scope["method"] not in ("GET", "HEAD"):
            return await _refusal(405, "Method Not Allowed")(scope, receive, answer)
        response = self._enter(scope, form)
        if response is not None:
            return await response(scope, receive, answer)
        await self._app(scope, receive, answer)

    def _enter(self, scope: Scope, form: Mapping[str, str]) -> Response | None:
        """What is answered here; None where the page may answer."""
        path, post = scope["path"], scope["method"] == "POST"
        if path == self._sign_in:
            return self._answer_sign_in(form) if post else self._ask(200, "")
        value = _cookie(scope, self._place.cookie)
        session = self._sessions.find(value)
        if session is None:
            return self._ask(401, "")
        if post and not hmac.compare_digest(form.get("csrf", "").encode(), session.csrf.encode()):
            return _refusal(403, "This form is of another session: go back, load the page again, and send it anew.")
        if post and path == self._sign_out:
            self._sessions.sign_out(value)
            return _gone_to(self._sign_in, self._place, "", 0)
        if post and session.role != "operator":
            return _refusal(403, "A viewer may look, and not act: sign in with the operator's token.")
        scope["session"], scope["form"] = session, form
        scope["signed_in"] = lambda: self._sessions.find(value) is not None
        return None

    def _answer_sign_in(self, form: Mapping[str, str]) -> Response:
        if not self._sessions.may_try():
            return self._ask(429, TOO_MANY)
        value = self._sessions.sign_in(form.get("token", "").strip())
        if value is None:
            return self._ask(401, "This token is not the right one.")
        return _gone_to(f"{self._place.root}/", self._place, value, int(LIFETIME_SECONDS))


def session_of(scope: Scope) -> Session:
    """Who asks."""
    session = scope["session"]
    assert isinstance(session, Session)
    return session


def _foreign(scope: Scope, place: Place) -> Response | None:
    """The refusal of what another site has sent; None for the page's own."""
    headers = Headers(scope=scope)
    host = headers.get("host", "")
    try:
        named = urlsplit(f"//{host}").hostname
    except ValueError:
        named = None
    if named not in HOSTS or len(headers.getlist("host")) != 1:
        return _refusal(421, "This page answers to 127.0.0.1 and localhost alone.")
    if scope["method"] == "POST" and headers.get("origin") != f"{place.scheme}://{host}":
        return _refusal(403, "This form was sent by another site.")
    # A picture or a script of another site may be a path of ours; people may follow a link.
    if headers.get("sec-fetch-site") in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate":
        return _refusal(403, "This was asked for by another site.")
    return None


async def _read_form(receive: Receive) -> Mapping[str, str] | None:
    """The fields of a form; None if it is too long."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > LONGEST_FORM:
            return None
        if not message.get("more_body"):
            return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))


def _cookie(scope: Scope, name: str) -> str:
    try:
        morsel = SimpleCookie(Headers(scope=scope).get("cookie", "")).get(name)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def _gone_to(path: str, place: Place, value: str, seconds: int) -> Response:
    """A redirect that sets the cookie."""
    response = RedirectResponse(path, status_code=303)
    response.set_cookie(
        place.cookie,
        value,
        max_age=seconds,
        path=f"{place.root}/",
        secure=place.secure,
        httponly=True,
        samesite="strict",
    )
    return response


def _refusal(status: int, text: str) -> Response:
    return PlainTextResponse(text, status_code=status)


def _with_headers(send: Send, more: Mapping[str, str]) -> Callable[[Message], Awaitable[None]]:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in (HEADERS | dict(more)).items():
                headers[name] = value
        await send(message)

    return sending
