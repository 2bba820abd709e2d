"""Signatures: who vouches for a file. The home of the cryptography package.

A signature is a file of its own beside the one it is of, ``FILE.onnx.sig``: one line of canonical JSON.

SignatureRefused           (an ArtefactError) nobody who is trusted vouches for the file
├── Unsigned               it has no signature
├── SignatureMalformed     what lies there is no signature
├── SignerUnknown          it is signed with a key that is not trusted
└── SignatureMismatch      the signature is not of these bytes
KeyInvalid                 (an ArtefactError) a key's file does not hold an Ed25519 key of the kind that is needed
"""

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from pydantic import Field, ValidationError

from export.spec.errors import ArtefactError
from export.spec.manifest import Digest
from export.spec.spaces import Frozen

# A signature has some 300 bytes and a key's file some 120: whatever is much longer is something else.
CAP = 4096


class SignatureRefused(ArtefactError):
    """Nobody who is trusted vouches for the file."""


class Unsigned(SignatureRefused):
    """It has no signature."""


class SignatureMalformed(SignatureRefused):
    """What lies there is no signature."""


class SignerUnknown(SignatureRefused):
    """It is signed with a key that is not trusted."""


class SignatureMismatch(SignatureRefused):
    """The signature is not of these bytes."""


class KeyInvalid(ArtefactError):
    """A key's file does not hold an Ed25519 key of the kind that is needed."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that signatures are checked with, and its fingerprint: the sha256 of its DER form."""

    fingerprint: str
    key: Ed25519PublicKey = field(repr=False)


class Signature(Frozen):
    """What a signature's file says: that the holder of ``key`` vouches for the file whose sha256 this is."""

    algorithm: Literal["ed25519"] = "ed25519"
    format: Literal[1] = 1
    key: Digest
    sha256: Digest
    signature: Annotated[str, Field(min_length=88, max_length=88)]

    def text(self) -> bytes:
        """The one line that the file is: there is no other spelling of the same signature."""
        return json.dumps(self.model_dump(), sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"


def signature_path(path: Path) -> Path:
    """Where the signature of a file lies: beside it."""
    return path.with_name(path.name + ".sig")


def read_signature(path: Path) -> bytes | None:
    """Read the signature beside a file; None where there is none. Raises SignatureMalformed."""
    beside = signature_path(path)
    try:
        # A pipe of somebody's in its place must not keep us waiting.
        opened = os.open(beside, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.read(opened, CAP + 1)
        finally:
            os.close(opened)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        msg = f"{beside} cannot be read ({getattr(error, 'strerror', None) or error}), expected a signature"
        raise SignatureMalformed(msg) from error


def read_public_key(path: Path) -> PublicKey:
    """Read a public key's file; raises KeyInvalid."""
    try:
        with path.open("rb") as file:
            pem = file.read(CAP)
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be read ({getattr(error, 'strerror', None) or error}), expected a public key"
        raise KeyInvalid(msg) from error
    try:
        return public_key(pem)
    except KeyInvalid as error:
        raise KeyInvalid(f"{path} {error}") from error


def public_key(pem: bytes) -> PublicKey:
    """Give the public key of a PEM text; raises KeyInvalid."""
    if b"PRIVATE KEY" in pem:
        msg = "holds a private key, expected the public one, which ends in .pub"
        raise KeyInvalid(msg)
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        msg = "is not a key in PEM form, expected a public key of `actd-export keygen`"
        raise KeyInvalid(msg) from error
    if not isinstance(key, Ed25519PublicKey):
        msg = f"holds a key of another kind ({type(key).__name__.strip('_')}), expected an Ed25519 public key"
        raise KeyInvalid(msg)
    return PublicKey(_fingerprint(key), key)


def key_pair(seed: bytes) -> tuple[bytes, bytes]:
    """Make a private key and its public key, both PEM, from 32 random bytes."""
    private = Ed25519PrivateKey.from_private_bytes(seed)
    return (
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    )


def sign(data: bytes, private_pem: bytes) -> bytes:
    """Give the signature's file for the bytes of a file; raises KeyInvalid."""
    try:
        private = load_pem_private_key(private_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        encrypted = b"ENCRYPTED" in private_pem
        msg = "is encrypted, expected it decrypted" if encrypted else "is not a private key in PEM form"
        raise KeyInvalid(msg) from error
    if not isinstance(private, Ed25519PrivateKey):
        msg = "holds a private key of another kind, expected an Ed25519 private key of `actd-export keygen`"
        raise KeyInvalid(msg)
    digest = hashlib.sha256(data).hexdigest()
    signed = base64.b64encode(private.sign(_message(digest))).decode("ascii")
    return Signature(key=_fingerprint(private.public_key()), sha256=digest, signature=signed).text()


def check_signature(data: bytes, signature: bytes | None, keys: Sequence[PublicKey]) -> PublicKey:
    """Give the one of the keys that signed these bytes; raises SignatureRefused whatever else is the case."""
    if signature is None:
        msg = "it is not signed, and only what is signed may be used"
        raise Unsigned(msg)
    told = parse_signature(signature)
    key = next((key for key in keys if key.fingerprint == told.key), None)
    if key is None:
        known = ", ".join(key.fingerprint[:16] for key in keys) or "none"
        msg = f"it is signed with the key {told.key[:16]}, expected one that is trusted: {known}"
        raise SignerUnknown(msg)
    digest = hashlib.sha256(data).hexdigest()
    if told.sha256 != digest:
        msg = f"its signature is of a file with sha256 {told.sha256}, this one has {digest}: altered, or another's"
        raise SignatureMismatch(msg)
    try:
        key.key.verify(base64.b64decode(told.signature, validate=True), _message(digest))
    except (InvalidSignature, ValueError) as error:
        msg = f"its signature was not made with the key {told.key[:16]} that it names"
        raise SignatureMismatch(msg) from error
    return key


def parse_signature(signature: bytes) -> Signature:
    """Read a signature's file; raises SignatureMalformed for any spelling but the one that ``sign`` writes."""
    wanted = "expected one line as `actd-export sign` writes it"
    if not signature or len(signature) > CAP:
        size = f"longer than {CAP} bytes" if signature else "empty"
        msg = f"its signature file is {size}, {wanted}"
        raise SignatureMalformed(msg)
    try:
        told = Signature.model_validate_json(signature)
        again = base64.b64encode(base64.b64decode(told.signature, validate=True)).decode("ascii")
    except (ValidationError, ValueError) as error:
        msg = f"its signature file is not a signature, {wanted}"
        raise SignatureMalformed(msg) from error
    # Other spaces, keys told twice, or spare bits of the base64 would leave room to alter a signature that still fits.
    if told.text() != signature or again != told.signature:
        msg = f"its signature file is spelled in another way, {wanted}"
        raise SignatureMalformed(msg)
    return told


def _message(digest: str) -> bytes:
    """What is signed: a text that says what it is about, so that it is never mistaken for a signature of others."""
    return f"actd artefact sha256 {digest}".encode("ascii")


def _fingerprint(key: Ed25519PublicKey) -> str:
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
