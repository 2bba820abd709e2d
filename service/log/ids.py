"""Decision ids: opaque tokens that name their place in the log and cannot be forged; and the keys behind them.

A token is 39 bytes in base64url (52 characters): version (1), key id (1), writer (8), ms (6), seq (6), track (1, whose
highest bit says that the decision is not in the log) and a MAC (16) over what stands before it. MAC and draw are keyed
BLAKE2b (RFC 7693) with keys derived from one secret.
"""

import base64
import binascii
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from service.log.records import Track

TOKEN_VERSION = 1
TOKEN_LENGTH = 52
_BODY = 23
_TRACKS: tuple[Track, ...] = ("stable", "canary", "shadow")
_TO_URL = bytes.maketrans(b"+/", b"-_")
# Beside the track: the decision is not in the log, and its number counts those that are not.
_UNLOGGED = 0x80


class KeyringInvalid(Exception):
    """The keyring cannot be used."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a decision stands in the log, read from its token."""

    key: int
    writer: str
    ms: int
    seq: int
    track: Track
    unlogged: bool = False


class Key:
    """One secret of the keyring with the keys derived from it, ready to hash."""

    def __init__(self, number: int, secret: bytes) -> None:
        self.number = number
        self._mac = hashlib.blake2b(key=_derived(secret, b"mac"), digest_size=16)
        self._draw = hashlib.blake2b(key=_derived(secret, b"draw"), digest_size=32)
        self.route = _derived(secret, b"route")
        self.fingerprint = _derived(secret, b"fingerprint")[:8].hex()

    def token(self, body: bytes) -> str:
        """The token of a body: the body and its MAC."""
        mac = self._mac.copy()
        mac.update(body)
        return binascii.b2a_base64(body + mac.digest(), newline=False).translate(_TO_URL).decode("ascii")

    def authentic(self, raw: bytes) -> bool:
        """Whether the MAC at the end of a token's 39 bytes is this key's."""
        mac = self._mac.copy()
        mac.update(raw[:_BODY])
        return secrets.compare_digest(mac.digest(), raw[_BODY:])

    def draw(self, body: bytes, blocks: int = 1) -> bytes:
        """Blocks of 32 bytes that are uniform to whoever lacks the key: each is four random numbers of a decision.

        The first is the hash of the body, each other that of the body and its number (4 bytes): more blocks do not
        change those before.
        """
        draw = self._draw.copy()
        draw.update(body)
        if blocks == 1:
            return draw.digest()
        parts = [draw.digest()]
        for number in range(1, blocks):
            more = draw.copy()
            more.update(number.to_bytes(4, "big"))
            parts.append(more.digest())
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Keyring:
    """The deployment's keys: the newest mints, all verify."""

    keys: Mapping[int, Key]

    @property
    def current(self) -> Key:
        return self.keys[max(self.keys)]

    @property
    def fingerprint(self) -> str:
        """What tells one deployment's keyring from another's, without telling the keys."""
        return self.keys[min(self.keys)].fingerprint

    def place(self, token: str) -> Place | None:
        """The place a token names; None where it is not a token of this deployment."""
        # The decoder takes the other alphabet's two signs besides; a decision has one name.
        if len(token) != TOKEN_LENGTH or "+" in token or "/" in token:
            return None
        try:
            raw = base64.b64decode(token, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        key = self.keys.get(raw[1])
        track = raw[22] & ~_UNLOGGED
        if raw[0] != TOKEN_VERSION or key is None or track >= len(_TRACKS) or not key.authentic(raw):
            return None
        return Place(
            key=raw[1],
            writer=raw[2:10].hex(),
            ms=int.from_bytes(raw[10:16], "big"),
            seq=int.from_bytes(raw[16:22], "big"),
            track=_TRACKS[track],
            unlogged=track != raw[22],
        )


def body_prefix(key: Key, writer: bytes) -> bytes:
    """What all bodies of a writer begin with."""
    return bytes([TOKEN_VERSION, key.number]) + writer


def body_of(prefix: bytes, ms: int, seq: int, track: Track, *, unlogged: bool = False) -> bytes:
    """The 23 bytes that a token says and that the draw is made from."""
    # One number of 6 bytes, 6 and 1: making three costs twice as much.
    return prefix + (ms << 56 | seq << 8 | _TRACKS.index(track) | (_UNLOGGED if unlogged else 0)).to_bytes(13, "big")


def body_of_token(token: str) -> bytes:
    """The 23 bytes of a token whose authenticity is already known."""
    return base64.urlsafe_b64decode(token)[:_BODY]


def is_unlogged(token: str) -> bool:
    """Whether an authentic token is that of a decision which is not in the log."""
    return bool(body_of_token(token)[-1] & _UNLOGGED)


def public_id_of_body(body: bytes) -> str:
    """A token without its MAC, from the 23 bytes that it says: what traces and datasets show, useless for feedback."""
    return base64.urlsafe_b64encode(body).decode("ascii").rstrip("=")


def load_keyring(path: Path) -> Keyring:
    """Read a keyring file, ``{"keys": {"1": "64 hex digits"}}``; raises KeyringInvalid."""
    try:
        told = json.loads(path.read_text("utf-8"))["keys"]
        keys = {int(number): Key(int(number), bytes.fromhex(secret)) for number, secret in told.items()}
        short = [number for number, secret in told.items() if len(bytes.fromhex(secret)) < 32]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        msg = f'{path}: is not a keyring ({type(error).__name__}), expected {{"keys": {{"1": "64 hex digits"}}}}'
        raise KeyringInvalid(msg) from error
    if not keys or short or any(not 0 < number < 256 for number in keys):
        raise KeyringInvalid(f"{path}: expected at least one key, numbered 1 to 255, of 64 hex digits")
    return Keyring(keys)


def make_keyring(path: Path) -> Keyring:
    """Read the keyring of a data folder, or make one with a new secret that only its owner can read."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"keys": {"1": secrets.token_hex(32)}}, file)
            file.flush()
            os.fsync(file.fileno())
        # link() refuses where another process was first: then its keyring is ours too.
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return load_keyring(path)


def _derived(secret: bytes, purpose: bytes) -> bytes:
    return hashlib.blake2b(key=secret, person=purpose, digest_size=32).digest()
