"""The commands that sign, ``actd-export keygen`` and ``sign``, and what ``verify`` and ``show`` say of a signature."""

import argparse
import contextlib
import hashlib
import os
import secrets
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from export.card import Signed
from export.errors import OptionInvalid
from export.spec.artefact import open_artefact
from export.spec.signature import (
    CAP,
    KeyInvalid,
    SignatureRefused,
    check_signature,
    key_pair,
    parse_signature,
    public_key,
    read_public_key,
    read_signature,
    sign,
    signature_path,
)
from export.verify import Check

# More than any artefact has: what is longer is not read to its end.
_FILE_CAP = 1 << 30


def keygen(words: Sequence[str]) -> int:
    """Make a pair of keys: the private one for its owner's eyes alone, the public one beside it."""
    parser = argparse.ArgumentParser("actd-export keygen", description="Make a key to sign artefacts with.")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="KEY", help="its public key is KEY.pub")
    path: Path = parser.parse_args(words).output
    public = path.with_name(path.name + ".pub")
    for taken in (path, public):
        if taken.exists() or taken.is_symlink():
            msg = f"{taken} exists, expected a new name: a key that is overwritten is lost"
            raise OptionInvalid(msg)
    private_pem, public_pem = key_pair(secrets.token_bytes(32))
    _create(path, private_pem, 0o600)
    try:
        _create(public, public_pem, 0o644)
    except OptionInvalid:
        path.unlink()
        raise
    sys.stdout.write(f"{path}: the private key, for nobody else\n")
    sys.stdout.write(f"{public}: the public key, fingerprint {public_key(public_pem).fingerprint}\n")
    return 0


def sign_file(words: Sequence[str]) -> int:
    """Sign an artefact that can be opened: FILE.sig is written beside it."""
    parser = argparse.ArgumentParser("actd-export sign", description="Sign an artefact: FILE.sig is written.")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--key", type=Path, required=True, metavar="KEY", help="a private key of `actd-export keygen`")
    options = parser.parse_args(words)
    data = _read(options.file, _FILE_CAP)
    open_artefact(data)
    try:
        signature = sign(data, _read(options.key, CAP))
    except KeyInvalid as error:
        raise OptionInvalid(f"{options.key} {error}") from error
    beside = signature_path(options.file)
    _replace(beside, signature)
    sys.stdout.write(f"{beside}: signed by {parse_signature(signature).key}\n")
    return 0


def signature_check(file: Path, data: bytes, keys: Sequence[Path]) -> Check:
    """Check that one of the public keys signed the bytes of a file; raises OptionInvalid for a key that is none."""
    try:
        trusted = [read_public_key(key) for key in keys]
    except KeyInvalid as error:
        raise OptionInvalid(str(error)) from error
    try:
        signer = check_signature(data, read_signature(file), trusted)
    except SignatureRefused as error:
        return Check("signature", passed=False, found=str(error))
    return Check("signature", passed=True, found=f"by {signer.fingerprint}")


def signed_by(file: Path, data: bytes, keys: Sequence[Path]) -> Signed:
    """Say for the card who signed the bytes of a file, as far as the keys that are given tell.

    Raises OptionInvalid for a key that is none.
    """
    try:
        signature = read_signature(file)
        told = parse_signature(signature) if signature is not None else None
    except SignatureRefused as error:
        return Signed("does not fit", "", f"does not fit: {error}")
    if told is None:
        return Signed("none", "", "not signed")
    if keys:
        check = signature_check(file, data, keys)
        if not check.passed:
            return Signed("does not fit", told.key, f"does not fit: {check.found}")
        return Signed("fits", told.key, f"signed by {told.key}")
    if told.sha256 != hashlib.sha256(data).hexdigest():
        return Signed("does not fit", told.key, "does not fit: it is of a file with another sha256")
    return Signed("unchecked", told.key, f"signed, it says, by {told.key}: not checked, no key was given (--key)")


def _read(path: Path, cap: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(cap)
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise OptionInvalid(msg) from error


def _create(path: Path, data: bytes, mode: int) -> None:
    """Write a file that is not there yet, and never with more rights than ``mode``."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        msg = f"{path} cannot be written: {error.strerror}"
        raise OptionInvalid(msg) from error


def _replace(path: Path, data: bytes) -> None:
    """Put a signature in its place in one step, readable by whoever may read the artefact."""
    draft = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        draft = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        draft.chmod(0o644)
        draft.replace(path)
    except OSError as error:
        if draft is not None:
            with contextlib.suppress(OSError):
                draft.unlink()
        msg = f"{path} cannot be written: {error.strerror}"
        raise OptionInvalid(msg) from error
