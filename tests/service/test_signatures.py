"""``require_signature``: with it nothing is served that nobody who is trusted vouches for, whatever went wrong."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from export.spec.signature import CAP, key_pair, public_key, sign
from service.application import assemble
from service.config import Config, ConfigInvalid
from service.versions.engine import Engine, VersionRefused, load_version
from tests import artefacts

PRIVATE, PUBLIC = key_pair(bytes(range(32)))
OTHER_PRIVATE, OTHER_PUBLIC = key_pair(bytes(32))
KEYS = [public_key(PUBLIC)]
DEMO = artefacts.demo()
SIGNED = sign(DEMO, PRIVATE)
TOML = """
name = "demo"
policy = "demo-1.onnx"
require_signature = { keys = ["keys/release.pub"] }
[baseline]
kind = "constant"
action = "hold"
"""


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    """The threads on which slow models run."""
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a configuration that requires a signature, an artefact, its signature and the key."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "release.pub").write_bytes(PUBLIC)
    (tmp_path / "policy.toml").write_text(TOML)
    (tmp_path / "demo-1.onnx").write_bytes(DEMO)
    (tmp_path / "demo-1.onnx.sig").write_bytes(SIGNED)
    return tmp_path


def started(folder: Path) -> Engine:
    """What a service with the configuration in the folder would serve."""
    application = assemble(Config.read(folder / "policy.toml"), folder / "data")
    application.engine.pool.shutdown(wait=False, cancel_futures=True)
    application.journal.close()
    return application.engine


def test_what_is_signed_is_served(folder: Path) -> None:
    """Keys are found from the configuration's own folder."""
    assert Config.read(folder / "policy.toml").require_signature is not None
    assert started(folder).artefact.data == DEMO


def test_any_of_several_keys_will_do(folder: Path) -> None:
    """So that a key can be replaced: the new one is added first, the old one removed last."""
    (folder / "keys" / "next.pub").write_bytes(OTHER_PUBLIC)
    text = TOML.replace('["keys/release.pub"]', '["keys/release.pub", "keys/next.pub"]')
    (folder / "policy.toml").write_text(text)
    (folder / "demo-1.onnx.sig").write_bytes(sign(DEMO, OTHER_PRIVATE))

    assert started(folder).label == "demo-1"


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


ARTEFACT, SIGNATURE, KEY = "demo-1.onnx", "demo-1.onnx.sig", "keys/release.pub"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (SIGNATURE, Path.unlink, "refused: it is not signed, and only what is signed may be used"),
        (SIGNATURE, lambda path: path.write_bytes(b""), "its signature file is empty"),
        (SIGNATURE, lambda path: path.write_bytes(bytes(10 * CAP)), "longer than 4096 bytes"),
        (SIGNATURE, lambda path: path.write_bytes(sign(DEMO, OTHER_PRIVATE)), "signed with the key"),
        (SIGNATURE, lambda path: path.write_bytes(sign(artefacts.demo(version="2"), PRIVATE)), "altered, or another's"),
        (SIGNATURE, _flipped, "its signature"),
        (SIGNATURE, _pipe, "its signature file is empty"),
        (SIGNATURE, _folder, r"demo-1\.onnx\.sig cannot be read \(Is a directory\)"),
        (ARTEFACT, _flipped, "altered, or another's"),
        (ARTEFACT, lambda path: path.write_bytes(artefacts.demo(version="2")), "altered, or another's"),
        (ARTEFACT, lambda path: path.write_bytes(DEMO[:-1]), "altered, or another's"),
        (ARTEFACT, lambda path: path.write_bytes(b""), "altered, or another's"),
        (KEY, Path.unlink, r"require_signature\.keys: .*release\.pub cannot be read \(No such file"),
        (KEY, _folder, r"require_signature\.keys: .*release\.pub cannot be read \(Is a directory"),
        (KEY, lambda path: path.write_bytes(b""), r"require_signature\.keys: .*release\.pub is not a key"),
        (KEY, lambda path: path.write_bytes(PRIVATE), "holds a private key, expected the public one"),
        (KEY, lambda path: path.write_bytes(OTHER_PUBLIC), "signed with the key"),
        (KEY, _flipped, r"release\.pub is not a key|signed with the key"),
    ],
)
def test_it_fails_closed(folder: Path, file: str, change: Callable[[Path], object], message: str) -> None:
    """Whatever is missing, altered, of somebody else or unreadable: the service does not start, and says why."""
    change(folder / file)

    with pytest.raises(VersionRefused, match=message):
        started(folder)
    assert not (folder / "data" / "journal").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("true", "require_signature: was True"),
        ('"keys/release.pub"', "require_signature: was"),
        ("{}", r"require_signature\.keys: is missing"),
        ("{ keys = [] }", r"require_signature\.keys: was \[\], expected"),
        ('{ keys = "keys/release.pub" }', r"require_signature\.keys: was"),
        ('{ keys = ["a.pub"], optional = true }', r"require_signature\.optional: is not a setting"),
    ],
)
def test_a_setting_that_says_no_key_is_refused(folder: Path, setting: str, message: str) -> None:
    """Requiring a signature of nobody in particular is a mistake, and never read as not requiring one."""
    text = TOML.replace('{ keys = ["keys/release.pub"] }', setting)
    (folder / "policy.toml").write_text(text)

    with pytest.raises(ConfigInvalid, match=message):
        Config.read(folder / "policy.toml")


def test_the_bytes_that_are_checked_are_the_bytes_that_are_loaded(folder: Path) -> None:
    """A file that is another at the second look is never looked at twice."""
    served = folder / "demo-1.onnx"
    served.unlink()
    os.mkfifo(served)
    started_up = threading.Event()
    looks: list[str] = []

    def feed() -> None:
        served.write_bytes(DEMO)
        looks.append("first")
        if not started_up.wait(20):
            looks.append("second")
            served.write_bytes(artefacts.demo(version="2"))

    feeder = threading.Thread(target=feed)
    feeder.start()
    engine = started(folder)
    started_up.set()
    feeder.join()

    assert (engine.label, engine.artefact.data) == ("demo-1", DEMO)
    assert looks == ["first"]


def test_nothing_is_read_of_what_is_not_vouched_for(pool: ThreadPoolExecutor) -> None:
    """Bytes that are no model are refused for their signature: no parser has seen them."""
    noise = b"\x08\x0a" * 100

    with pytest.raises(VersionRefused, match="it is not signed"):
        load_version(noise, None, pool, signature=None, keys=KEYS)
    with pytest.raises(VersionRefused, match="only actd-export writes artefacts"):
        load_version(noise, None, pool, signature=sign(noise, PRIVATE), keys=KEYS)


def test_an_empty_list_of_keys_is_not_no_list(pool: ThreadPoolExecutor) -> None:
    """With no key to trust nothing is trusted."""
    with pytest.raises(VersionRefused, match="expected one that is trusted: none"):
        load_version(DEMO, None, pool, signature=SIGNED, keys=[])


def test_a_refused_version_leaves_the_one_that_serves(pool: ThreadPoolExecutor) -> None:
    """It is refused before anything is replaced: what served before answers as before."""
    serving = load_version(DEMO, None, pool, signature=SIGNED, keys=KEYS)
    observed = {"obs": artefacts.golden_inputs(artefacts.FIELDS)}
    before = serving.infer(observed)

    with pytest.raises(VersionRefused):
        load_version(artefacts.demo(version="2"), None, pool, signature=SIGNED, keys=KEYS)

    assert np.array_equal(serving.infer(observed).head, before.head)


def test_without_the_setting_a_signature_is_not_asked_for(folder: Path) -> None:
    """Nor looked at; and it bears on no decision, so that the configuration's digest is the same."""
    with_it = Config.read(folder / "policy.toml")
    (folder / "policy.toml").write_text(TOML.replace('require_signature = { keys = ["keys/release.pub"] }', ""))
    (folder / "demo-1.onnx.sig").write_bytes(b"noise")

    assert started(folder).label == "demo-1"
    assert Config.read(folder / "policy.toml").digest == with_it.digest
