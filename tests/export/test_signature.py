"""Signatures: what fits is one key's word on one file, and nothing else does."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from export.spec.errors import ArtefactError
from export.spec.signature import (
    CAP,
    KeyInvalid,
    SignatureMalformed,
    SignatureMismatch,
    SignatureRefused,
    SignerUnknown,
    Unsigned,
    check_signature,
    key_pair,
    parse_signature,
    public_key,
    read_public_key,
    read_signature,
    sign,
    signature_path,
)

DATA = b"a file of some bytes" * 20
PRIVATE, PUBLIC = key_pair(bytes(range(32)))
OTHER_PRIVATE, OTHER_PUBLIC = key_pair(bytes(32))
KEY, OTHER = public_key(PUBLIC), public_key(OTHER_PUBLIC)
SIGNED = sign(DATA, PRIVATE)


def test_what_was_signed_fits() -> None:
    """The key that signed is told, whichever place it has among those that are trusted."""
    assert check_signature(DATA, SIGNED, [KEY]) == KEY
    assert check_signature(DATA, SIGNED, [OTHER, KEY]).fingerprint == KEY.fingerprint


def test_a_signature_says_what_it_is() -> None:
    """One line of JSON with the algorithm, the key, the file's sha256 and the signature."""
    told = json.loads(SIGNED)

    assert SIGNED.count(b"\n") == 1
    assert sorted(told) == ["algorithm", "format", "key", "sha256", "signature"]
    assert (told["algorithm"], told["format"], told["key"]) == ("ed25519", 1, KEY.fingerprint)
    assert signature_path(Path("a/b-1.onnx")) == Path("a/b-1.onnx.sig")


def test_every_bit_of_the_signature_counts() -> None:
    """Not one of its bits can be flipped: there is one spelling, and one signature in it."""
    fits = 0
    for at in range(len(SIGNED) * 8):
        altered = bytearray(SIGNED)
        altered[at // 8] ^= 1 << at % 8
        try:
            check_signature(DATA, bytes(altered), [KEY])
            fits += 1
        except SignatureRefused:
            pass

    assert fits == 0


def test_every_bit_of_the_file_counts() -> None:
    """A file with one bit flipped is another file."""
    for at in range(len(DATA) * 8):
        altered = bytearray(DATA)
        altered[at // 8] ^= 1 << at % 8
        with pytest.raises(SignatureMismatch, match="altered, or another's"):
            check_signature(bytes(altered), SIGNED, [KEY])


def _with(**values: object) -> bytes:
    """A signature's file, well spelled, that says something else."""
    return json.dumps({**json.loads(SIGNED), **values}, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _spare_bits() -> bytes:
    """The same signature with another last letter: base64 has four bits to spare there."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    text = json.loads(SIGNED)["signature"]
    again = text[:85] + letters[letters.index(text[85]) ^ 1] + text[86:]
    assert base64.b64decode(again) == base64.b64decode(text)
    return _with(signature=again)


def _larger_scalar() -> bytes:
    """The same signature with the group's order added to its scalar, which a lax verifier accepts."""
    raw = base64.b64decode(json.loads(SIGNED)["signature"])
    order = 2**252 + 27742317777372353535851937790883648493
    scalar = int.from_bytes(raw[32:], "little") + order
    return _with(signature=base64.b64encode(raw[:32] + scalar.to_bytes(32, "little")).decode())


@pytest.mark.parametrize(
    ("signature", "error", "message"),
    [
        (None, Unsigned, "it is not signed"),
        (b"", SignatureMalformed, "file is empty"),
        (b"x" * (CAP + 1), SignatureMalformed, f"longer than {CAP} bytes"),
        (b"\xff\xfe", SignatureMalformed, "is not a signature"),
        (b"[" * CAP, SignatureMalformed, "is not a signature"),
        (b"null", SignatureMalformed, "is not a signature"),
        (SIGNED[:-1], SignatureMalformed, "spelled in another way"),
        (SIGNED + b"\n", SignatureMalformed, "spelled in another way"),
        (SIGNED.replace(b",", b", "), SignatureMalformed, "spelled in another way"),
        (SIGNED.replace(b'"format":1,', b""), SignatureMalformed, "spelled in another way"),
        (SIGNED.replace(b'"format":1,', b'"format":1,"format":1,'), SignatureMalformed, "spelled in another way"),
        (_with(more=1), SignatureMalformed, "is not a signature"),
        (_with(algorithm="none"), SignatureMalformed, "is not a signature"),
        (_with(algorithm="hmac-sha256"), SignatureMalformed, "is not a signature"),
        (_with(format=2), SignatureMalformed, "is not a signature"),
        (_with(signature="!" * 88), SignatureMalformed, "is not a signature"),
        (_spare_bits(), SignatureMalformed, "spelled in another way"),
        (_larger_scalar(), SignatureMismatch, "was not made with the key"),
        (_with(signature=base64.b64encode(bytes(64)).decode()), SignatureMismatch, "was not made with the key"),
        (_with(signature=base64.b64encode(bytes(65)).decode()), SignatureMismatch, "was not made with the key"),
        (sign(DATA, OTHER_PRIVATE), SignerUnknown, f"with the key {OTHER.fingerprint[:16]}, expected"),
        (_with(key=OTHER.fingerprint), SignerUnknown, "expected one that is trusted"),
        (sign(DATA + b"more", PRIVATE), SignatureMismatch, "altered, or another's"),
        (_with(sha256=json.loads(sign(DATA + b"more", PRIVATE))["sha256"]), SignatureMismatch, "or another's"),
    ],
)
def test_what_does_not_fit_is_refused(signature: bytes | None, error: type[SignatureRefused], message: str) -> None:
    """Whatever else lies there, there is a class and a sentence for it."""
    with pytest.raises(error, match=message):
        check_signature(DATA, signature, [KEY])


def test_a_signature_under_anothers_name_does_not_fit() -> None:
    """A key that is trusted, written on a signature of a key that is not, vouches for nothing."""
    forged = sign(DATA, OTHER_PRIVATE).replace(OTHER.fingerprint.encode(), KEY.fingerprint.encode())

    assert parse_signature(forged).key == KEY.fingerprint
    with pytest.raises(SignatureMismatch, match="was not made with the key"):
        check_signature(DATA, forged, [KEY, OTHER])


def test_no_keys_trust_nobody() -> None:
    """An empty list of keys lets nothing pass."""
    with pytest.raises(SignerUnknown, match="expected one that is trusted: none"):
        check_signature(DATA, SIGNED, [])


def test_the_signed_text_is_as_documented(tmp_path: Path) -> None:
    """OpenSSL's own command agrees, over the text that the documentation names."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command")
    told = json.loads(SIGNED)
    (tmp_path / "key.pub").write_bytes(PUBLIC)
    (tmp_path / "text").write_text(f"actd artefact sha256 {told['sha256']}")
    (tmp_path / "raw").write_bytes(base64.b64decode(told["signature"]))

    words = [openssl, "pkeyutl", "-verify", "-pubin", "-inkey", "key.pub", "-rawin", "-in", "text", "-sigfile", "raw"]
    ran = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert "Signature Verified Successfully" in ran.stdout + ran.stderr


def _pem(private: ec.EllipticCurvePrivateKey) -> tuple[bytes, bytes]:
    return (
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    )


CURVE_PRIVATE, CURVE_PUBLIC = _pem(ec.derive_private_key(7, ec.SECP256R1()))
ENCRYPTED = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
)


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        (b"", "is not a key in PEM form"),
        (b"noise", "is not a key in PEM form"),
        (PUBLIC[:-30], "is not a key in PEM form"),
        (PRIVATE, "holds a private key, expected the public one"),
        (CURVE_PUBLIC, "a key of another kind"),
    ],
)
def test_what_is_no_public_key_is_refused(pem: bytes, message: str) -> None:
    """A private key least of all: it should not lie where services read."""
    with pytest.raises(KeyInvalid, match=message):
        public_key(pem)


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        (b"", "is not a private key"),
        (PUBLIC, "is not a private key"),
        (CURVE_PRIVATE, "of another kind"),
        (ENCRYPTED, "is encrypted, expected it decrypted"),
    ],
)
def test_what_is_no_private_key_does_not_sign(pem: bytes, message: str) -> None:
    """Each with its reason."""
    with pytest.raises(KeyInvalid, match=message):
        sign(DATA, pem)


def test_keys_are_read_from_files(tmp_path: Path) -> None:
    """The path is in every complaint, and all complaints are of the artefact's tree."""
    (tmp_path / "key.pub").write_bytes(PUBLIC)
    (tmp_path / "bad.pub").write_bytes(b"bad")

    assert read_public_key(tmp_path / "key.pub") == KEY
    with pytest.raises(ArtefactError, match=r"none\.pub cannot be read \(No such file"):
        read_public_key(tmp_path / "none.pub")
    with pytest.raises(ArtefactError, match=r"bad\.pub is not a key"):
        read_public_key(tmp_path / "bad.pub")
    assert "PublicKey object" not in repr(KEY)


def test_a_signature_is_read_beside_its_file(tmp_path: Path) -> None:
    """None where there is none; a pipe or a huge file in its place keeps nobody waiting."""
    file = tmp_path / "a-1.onnx"

    assert read_signature(file) is None
    signature_path(file).write_bytes(SIGNED)
    assert read_signature(file) == SIGNED
    signature_path(file).write_bytes(bytes(10 * CAP))
    assert len(read_signature(file) or b"") == CAP + 1
    signature_path(file).unlink()
    os.mkfifo(signature_path(file))
    assert read_signature(file) == b""
    signature_path(file).unlink()
    signature_path(file).mkdir()
    with pytest.raises(SignatureMalformed, match="cannot be read"):
        read_signature(file)
