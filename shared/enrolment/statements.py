"""What is signed, byte for byte.

Each statement names its purpose and all that it is bound to, so that none can stand in the place of another, for
another coordinator, or twice.
"""

import hashlib
import json


def code_hash(code: str) -> str:
    """What the coordinator keeps of an invitation's code; it has 256 bits, so that no guess finds it."""
    return hashlib.sha256(b"collegium invitation 1\n" + code.encode()).hexdigest()


def joining(*, authority: str, nonce: str, code: str, name: str, public_key: str) -> bytes:
    """That whoever has this key takes up this invitation of this coordinator, now.

    Args:
        authority: Fingerprint of the coordinator's CA certificate.
        nonce: The coordinator's.
        code: The invitation's.
        name: The institution.
        public_key: The line of its key.
    """
    return _statement("join", authority=authority, nonce=nonce, invitation=code_hash(code), name=name, key=public_key)


def agreement(*, authority: str, nonce: str, name: str, public_key: str, federation: str, digest: str) -> bytes:
    """That the coordinator has given this federation file to this institution.

    Args:
        authority: Fingerprint of its CA certificate.
        nonce: That of the request.
        name: The institution.
        public_key: The line of its key.
        federation: The text of the federation file.
        digest: Of the agreement in it.
    """
    sha256 = hashlib.sha256(federation.encode()).hexdigest()
    about = {"authority": authority, "nonce": nonce, "name": name, "key": public_key}
    return _statement("agreement", **about, federation=sha256, digest=digest)


def rotation(*, authority: str, nonce: str, name: str, old: str, new: str) -> bytes:
    """That one key takes the place of another, for the coordinator; both sign it."""
    return _statement("rotate-key", authority=authority, nonce=nonce, name=name, old=old, new=new)


def succession(*, old: str, new: str) -> bytes:
    """That one key takes the place of another, for the site's own receipts; the old one signs it."""
    return _statement("succession", old=old, new=new)


def leaving(*, authority: str, nonce: str, name: str, public_key: str) -> bytes:
    """That an institution leaves for good."""
    return _statement("leave", authority=authority, nonce=nonce, name=name, key=public_key)


def _statement(purpose: str, **about: str) -> bytes:
    return json.dumps({"purpose": f"collegium {purpose} 1", **about}, sort_keys=True, separators=(",", ":")).encode()
