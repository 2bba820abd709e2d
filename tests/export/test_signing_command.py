"""The commands that sign, and the check of a signature, on real files."""

import json
import stat
from pathlib import Path

import pytest

from export.errors import OptionInvalid
from export.signing_command import keygen, sign_file, signature_check
from export.spec.errors import DigestMismatch
from export.spec.signature import public_key, signature_path

BUNDLED = Path(__file__).resolve().parents[2] / "policies" / "autoscaler-1.onnx"


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder with two pairs of keys, a and b, and an artefact that a signed."""
    (tmp_path / "p-1.onnx").write_bytes(BUNDLED.read_bytes())
    for name in "ab":
        assert keygen(["-o", str(tmp_path / name)]) == 0
    assert sign_file([str(tmp_path / "p-1.onnx"), "--key", str(tmp_path / "a")]) == 0
    capsys.readouterr()
    return tmp_path


def checked(folder: Path, *keys: str) -> str:
    """What the check says of the artefact in the folder."""
    file = folder / "p-1.onnx"
    check = signature_check(file, file.read_bytes(), [folder / key for key in keys])
    return f"{check.name} {'OK' if check.passed else 'FAILED'} {check.found}"


def test_a_private_key_is_its_owners_alone(folder: Path) -> None:
    """The private key has mode 0600, and no two are alike."""
    assert stat.S_IMODE((folder / "a").stat().st_mode) == 0o600
    assert (folder / "a").read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert (folder / "a.pub").read_bytes().startswith(b"-----BEGIN PUBLIC KEY-----")
    assert (folder / "a").read_bytes() != (folder / "b").read_bytes()


def test_the_fingerprint_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command that makes a key and by the one that signs with it: the same."""
    file = tmp_path / "p-1.onnx"
    file.write_bytes(BUNDLED.read_bytes())
    keygen(["-o", str(tmp_path / "key")])
    sign_file([str(file), "--key", str(tmp_path / "key")])

    fingerprint = public_key((tmp_path / "key.pub").read_bytes()).fingerprint
    made = f"{tmp_path / 'key'}: the private key, for nobody else\n{tmp_path / 'key.pub'}: the public key, "
    assert capsys.readouterr().out == (
        f"{made}fingerprint {fingerprint}\n{signature_path(file)}: signed by {fingerprint}\n"
    )


@pytest.mark.parametrize("taken", ["key", "key.pub"])
def test_a_key_is_never_overwritten(tmp_path: Path, taken: str) -> None:
    """Neither half of it; and then the other half is not written either."""
    (tmp_path / taken).write_text("precious")

    with pytest.raises(OptionInvalid, match="exists, expected a new name"):
        keygen(["-o", str(tmp_path / "key")])

    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(taken, "precious")]


def test_a_dangling_link_is_not_followed(tmp_path: Path) -> None:
    """A key is not written where somebody's link points to."""
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OptionInvalid, match="exists"):
        keygen(["-o", str(tmp_path / "key")])

    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    """As a sentence."""
    with pytest.raises(OptionInvalid, match=r"none/key cannot be written: No such file"):
        keygen(["-o", str(tmp_path / "none" / "key")])


def test_a_signature_is_checked(folder: Path) -> None:
    """It passes with the key that made it, and with no other."""
    signer = public_key((folder / "a.pub").read_bytes()).fingerprint

    assert checked(folder, "a.pub") == f"signature OK by {signer}"
    assert checked(folder, "b.pub", "a.pub") == f"signature OK by {signer}"
    assert checked(folder, "b.pub").startswith(f"signature FAILED it is signed with the key {signer[:16]}, expected")


def test_what_is_stripped_or_altered_fails(folder: Path) -> None:
    """A signature of another file, and none."""
    file = folder / "p-1.onnx"
    file.write_bytes(file.read_bytes() + b"\0")
    assert "FAILED its signature is of a file with sha256" in checked(folder, "a.pub")
    signature_path(file).unlink()
    assert "FAILED it is not signed" in checked(folder, "a.pub")


def test_signing_again_replaces_the_signature(folder: Path) -> None:
    """The file's newest signature is the one that counts, and it is readable by others."""
    sign_file([str(folder / "p-1.onnx"), "--key", str(folder / "b")])

    assert "OK" in checked(folder, "b.pub")
    assert "FAILED" in checked(folder, "a.pub")
    assert stat.S_IMODE((folder / "p-1.onnx.sig").stat().st_mode) == 0o644
    assert sorted(path.name for path in folder.iterdir()) == ["a", "a.pub", "b", "b.pub", "p-1.onnx", "p-1.onnx.sig"]


def test_only_artefacts_are_signed(folder: Path) -> None:
    """What could not be served gets nobody's word: no signature is written."""
    file = folder / "q-1.onnx"
    file.write_bytes(BUNDLED.read_bytes()[:-1] + b"\0")

    with pytest.raises(DigestMismatch):
        sign_file([str(file), "--key", str(folder / "a")])
    assert not signature_path(file).exists()


@pytest.mark.parametrize(
    ("key", "message"), [("a.pub", "is not a private key"), ("none", "cannot be read"), (".", "cannot be read")]
)
def test_a_key_that_cannot_sign_is_said(folder: Path, key: str, message: str) -> None:
    """With its path; the signature that was there stays."""
    before = json.loads((folder / "p-1.onnx.sig").read_bytes())

    with pytest.raises(OptionInvalid, match=message):
        sign_file([str(folder / "p-1.onnx"), "--key", str(folder / key)])
    assert json.loads((folder / "p-1.onnx.sig").read_bytes()) == before


def test_a_signature_that_cannot_be_written_is_said(folder: Path) -> None:
    """And nothing is left lying about."""
    signature_path(folder / "p-1.onnx").unlink()
    signature_path(folder / "p-1.onnx").mkdir()

    with pytest.raises(OptionInvalid, match=r"p-1\.onnx\.sig cannot be written"):
        sign_file([str(folder / "p-1.onnx"), "--key", str(folder / "a")])
    assert len(list(folder.iterdir())) == 6


def test_a_key_that_cannot_check_is_a_fault_of_the_command_line(folder: Path) -> None:
    """A private key in its place above all."""
    with pytest.raises(OptionInvalid, match="holds a private key, expected the public one"):
        checked(folder, "a")
