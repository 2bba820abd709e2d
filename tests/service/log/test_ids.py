"""Decision ids and keyrings: a token says where its decision stands, and nobody else can make one."""

import base64
import hashlib
import json
import multiprocessing
import stat
import threading
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.log.ids import (
    TOKEN_LENGTH,
    Key,
    Keyring,
    KeyringInvalid,
    Place,
    body_of,
    body_of_token,
    body_prefix,
    is_unlogged,
    load_keyring,
    make_keyring,
    public_id_of_body,
)
from service.log.records import Track
from tests.fakes import KEY, WRITER

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
KEYRING = Keyring({1: KEY, 2: Key(2, b"second" * 8)})
BODY = body_of(body_prefix(KEY, WRITER), 1_700_000_000_000, 12, "stable")
TOKEN = KEY.token(BODY)


def forgeries(kind: str, count: int) -> list[str]:
    """Tokens that nobody minted, made without the key from some that were."""
    random = Random(kind)  # noqa: S311 - a test that repeats itself
    bodies = [body_of(body_prefix(KEY, WRITER), 1_700_000_000_000 + i, i, "canary") for i in range(count)]
    tokens = [KEY.token(body) for body in bodies]
    make: dict[str, Callable[[int], str]] = {
        "random": lambda _: "".join(random.choices(ALPHABET, k=TOKEN_LENGTH)),
        "a character": lambda i: replaced(random, tokens[i]),
        "a bit": lambda i: flipped(random, tokens[i]),
        "another's MAC": lambda i: tokens[i][:31] + tokens[i - 1][31:],
        "another key": lambda i: Key(1, random.randbytes(32)).token(bodies[i]),
        "another key's number": lambda i: Key(1, b"second" * 8).token(bodies[i]),
        "truncated": lambda i: tokens[i][: random.randrange(TOKEN_LENGTH)],
        "longer": lambda i: tokens[i] + random.choice(ALPHABET),
        "padded": lambda i: tokens[i][: -1 - i % 3] + "=" * (1 + i % 3),
        "swapped": lambda i: tokens[i][26:] + tokens[i][:26],
    }
    return [make[kind](i) for i in range(count)]


def replaced(random: Random, token: str) -> str:
    """A token with one character changed."""
    at = random.randrange(len(token))
    return token[:at] + random.choice(ALPHABET.replace(token[at], "")) + token[at + 1 :]


def flipped(random: Random, token: str) -> str:
    """A token with one bit changed."""
    raw = bytearray(base64.urlsafe_b64decode(token))
    bit = random.randrange(len(raw) * 8)
    raw[bit // 8] ^= 1 << bit % 8
    return base64.urlsafe_b64encode(raw).decode()


class TestToken:
    """What a token says, and who can make one."""

    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(
        number=st.sampled_from((1, 2)),
        writer=st.binary(min_size=8, max_size=8),
        ms=st.integers(0, 2**48 - 1),
        seq=st.integers(0, 2**48 - 1),
        track=st.sampled_from(("stable", "canary", "shadow")),
    )
    def test_it_names_its_place(self, number: int, writer: bytes, ms: int, seq: int, track: Track) -> None:
        """Whatever was put in is read from it again, and it is as long as promised."""
        key = KEYRING.keys[number]
        body = body_of(body_prefix(key, writer), ms, seq, track)

        token = key.token(body)

        assert KEYRING.place(token) == Place(key=number, writer=writer.hex(), ms=ms, seq=seq, track=track)
        assert len(token) == TOKEN_LENGTH <= 64
        assert set(token) <= set(ALPHABET)
        assert body_of_token(token) == body

    @pytest.mark.parametrize(
        "kind",
        [
            "random",
            "a character",
            "a bit",
            "another's MAC",
            "another key",
            "another key's number",
            "truncated",
            "longer",
            "padded",
            "swapped",
        ],
    )
    def test_what_was_not_minted_is_refused(self, kind: str) -> None:
        """A thousand forgeries of each kind, ten thousand in all."""
        assert [token for token in forgeries(kind, 1000) if KEYRING.place(token) is not None] == []

    def test_every_single_bit_counts(self) -> None:
        """There is none that could be flipped unseen."""
        raw = base64.urlsafe_b64decode(TOKEN)
        for bit in range(len(raw) * 8):
            other = bytearray(raw)
            other[bit // 8] ^= 1 << bit % 8

            assert KEYRING.place(base64.urlsafe_b64encode(other).decode()) is None

    @pytest.mark.parametrize(
        "token",
        ["", "é" * TOKEN_LENGTH, "\ud800" * TOKEN_LENGTH, "A" * 51, " " + TOKEN[1:], TOKEN[:-1] + "\n", "\0" * 52],
        ids=["empty", "not ASCII", "surrogates", "short", "space", "newline", "zeros"],
    )
    def test_what_is_no_token_is_refused_quietly(self, token: str) -> None:
        """It comes from outside: nothing in it raises."""
        assert KEYRING.place(token) is None

    def test_a_token_has_one_spelling(self) -> None:
        """Its text is the decision's name: what is compared as text has to be the same text."""
        tokens = [KEY.token(_body(i)) for i in range(100)]
        others = [token.translate({ord("-"): "+", ord("_"): "/"}) for token in tokens]

        assert all(KEYRING.place(token) is not None for token in tokens)
        assert [other for other in set(others) - set(tokens) if KEYRING.place(other) is not None] == []

    def test_an_authentic_body_of_another_format_is_refused(self) -> None:
        """A version, a key or a track that does not exist here, though its MAC is right."""
        assert KEYRING.place(KEY.token(b"\x02" + BODY[1:])) is None
        assert KEYRING.place(KEY.token(BODY[:1] + b"\x07" + BODY[2:])) is None
        assert KEYRING.place(KEY.token(BODY[:-1] + b"\x03")) is None

    def test_its_public_part_proves_nothing(self) -> None:
        """Body without MAC: it names the decision, and is no token."""
        shown = public_id_of_body(body_of_token(TOKEN))

        assert shown == base64.urlsafe_b64encode(BODY).decode().rstrip("=")
        assert TOKEN.startswith(shown[:30])
        assert KEYRING.place(shown) is None


def _body(i: int) -> bytes:
    return body_of(body_prefix(KEY, WRITER), i, i, "stable")


class TestUnlogged:
    """Tokens of decisions that are in no log."""

    @pytest.mark.parametrize("track", ["stable", "canary", "shadow"])
    def test_they_are_told_apart_and_name_their_track(self, track: Track) -> None:
        """The same place beside the log is another decision, with another draw, whose token is as hard to forge."""
        prefix = body_prefix(KEY, WRITER)
        logged, beside = (body_of(prefix, 1000, 7, track, unlogged=unlogged) for unlogged in (False, True))
        places = [KEYRING.place(KEY.token(body)) for body in (logged, beside)]
        raw = bytearray(base64.urlsafe_b64decode(KEY.token(logged)))
        raw[22] |= 0x80

        assert places == [
            Place(key=1, writer=WRITER.hex(), ms=1000, seq=7, track=track, unlogged=unlogged)
            for unlogged in (False, True)
        ]
        assert [is_unlogged(KEY.token(body)) for body in (logged, beside)] == [False, True]
        assert KEY.draw(logged) != KEY.draw(beside)
        assert KEYRING.place(base64.urlsafe_b64encode(bytes(raw)).decode()) is None


class TestKey:
    """Keys derived from one secret."""

    def test_what_is_derived_is_told_apart(self) -> None:
        """By purpose, by secret; and it is the same every time."""
        key, other = Key(1, b"a" * 32), Key(1, b"b" * 32)
        told = [key.token(BODY)[31:], key.draw(BODY).hex(), key.route.hex(), key.fingerprint]

        assert [Key(1, b"a" * 32).token(BODY)[31:], Key(1, b"a" * 32).draw(BODY).hex()] == told[:2]
        assert not set(told) & {other.token(BODY)[31:], other.draw(BODY).hex(), other.route.hex(), other.fingerprint}
        assert len(set(told)) == 4

    def test_a_draw_depends_on_all_of_the_body(self) -> None:
        """Neighbours in the log draw independently."""
        draws = {KEY.draw(_body(i)) for i in range(1000)}

        assert len(draws) == 1000
        assert {len(draw) for draw in draws} == {32}


class TestBlocks:
    """More random numbers than one hash gives."""

    def test_the_first_is_the_hash_of_the_body_alone(self) -> None:
        """What was drawn before there were more is drawn alike."""
        secret = b"fakes" * 8
        key = hashlib.blake2b(key=secret, person=b"draw", digest_size=32).digest()

        assert KEY.draw(BODY) == hashlib.blake2b(BODY, key=key, digest_size=32).digest()
        assert KEY.draw(BODY, 1) == KEY.draw(BODY)

    def test_more_blocks_do_not_change_those_before(self) -> None:
        """However many a space needs."""
        blocks = KEY.draw(BODY, 300)

        assert len(blocks) == 300 * 32
        assert all(KEY.draw(BODY, n) == blocks[: n * 32] for n in (1, 2, 7, 300))

    def test_no_two_blocks_are_alike(self) -> None:
        """Of one decision or of several."""
        bodies = [body_of(body_prefix(KEY, WRITER), 1, seq, "stable") for seq in range(50)]
        drawn = [KEY.draw(body, 40) for body in bodies]

        assert len({one[at : at + 32] for one in drawn for at in range(0, len(one), 32)}) == 50 * 40


class TestKeyring:
    """Keyring files."""

    def test_the_newest_key_mints_and_all_verify(self) -> None:
        """A key is kept as long as the log is; the oldest one gives the fingerprint."""
        assert KEYRING.current.number == 2
        assert KEYRING.fingerprint == KEY.fingerprint
        assert KEYRING.place(TOKEN) is not None
        assert Keyring({2: KEYRING.keys[2]}).place(TOKEN) is None

    def test_a_file_is_read(self, tmp_path: Path) -> None:
        """With as many keys as it has."""
        path = tmp_path / "keyring.json"
        path.write_text(json.dumps({"keys": {"1": "ab" * 32, "255": "cd" * 64}}))

        keyring = load_keyring(path)

        assert sorted(keyring.keys) == [1, 255]
        assert keyring.keys[1].token(BODY) == Key(1, b"\xab" * 32).token(BODY)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "no",
            "[]",
            "{}",
            "7",
            "null",
            '{"keys": []}',
            '{"keys": {"one": "ab"}}',
            '{"keys": {"1": 7}}',
            '{"keys": 1}',
        ],
    )
    def test_what_is_no_keyring_is_refused(self, tmp_path: Path, text: str) -> None:
        """With the path, what is wrong, and what was expected."""
        path = tmp_path / "keyring.json"
        path.write_text(text)

        with pytest.raises(KeyringInvalid, match=rf"^{path}: is not a keyring \(\w+\), expected {{\"keys\": "):
            load_keyring(path)

    @pytest.mark.parametrize("secret", ["xy" * 32, "ab" * 65, "abc"])
    def test_a_secret_that_is_no_key_is_refused(self, tmp_path: Path, secret: str) -> None:
        """Not hexadecimal, or longer than BLAKE2b takes; it is not repeated in the message."""
        path = tmp_path / "keyring.json"
        path.write_text(json.dumps({"keys": {"1": secret}}))

        with pytest.raises(KeyringInvalid, match="is not a keyring") as refusal:
            load_keyring(path)

        assert secret not in str(refusal.value)

    @pytest.mark.parametrize(
        "keys", [{}, {"1": "ab" * 31}, {"1": ""}, {"0": "ab" * 32}, {"256": "ab" * 32}, {"-1": "ab" * 32}], ids=str
    )
    def test_a_key_that_is_short_or_out_of_range_is_refused(self, tmp_path: Path, keys: dict[str, Any]) -> None:
        """At least one, numbered in a byte, of 32 bytes."""
        path = tmp_path / "keyring.json"
        path.write_text(json.dumps({"keys": keys}))

        with pytest.raises(KeyringInvalid, match="expected at least one key, numbered 1 to 255, of 64 hex digits"):
            load_keyring(path)

    @pytest.mark.parametrize("data", [b"\xff\xfe", b'{"keys": {"1": "\xff"}}'])
    def test_bytes_that_are_no_text_are_refused(self, tmp_path: Path, data: bytes) -> None:
        """As everything else that is no keyring."""
        path = tmp_path / "keyring.json"
        path.write_bytes(data)

        with pytest.raises(KeyringInvalid, match="UnicodeDecodeError"):
            load_keyring(path)

    def test_a_file_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        """A keyring that somebody named is not made up."""
        with pytest.raises(KeyringInvalid, match="FileNotFoundError"):
            load_keyring(tmp_path / "none.json")


class TestMaking:
    """The embedded default: a keyring made on first use."""

    def test_it_is_made_once(self, tmp_path: Path) -> None:
        """In a folder made for it; the next start finds the same."""
        path = tmp_path / "new" / "data" / "keyring.json"

        first, second = make_keyring(path), make_keyring(path)

        assert first.current.token(BODY) == second.current.token(BODY)
        assert [child.name for child in path.parent.iterdir()] == ["keyring.json"]

    def test_only_its_owner_can_read_it(self, tmp_path: Path) -> None:
        """Who has it can forge feedback."""
        make_keyring(tmp_path / "keyring.json")

        assert stat.S_IMODE((tmp_path / "keyring.json").stat().st_mode) == 0o600

    def test_no_two_are_alike(self, tmp_path: Path) -> None:
        """Each deployment has a secret of its own."""
        made = {make_keyring(tmp_path / f"{i}.json").fingerprint for i in range(20)}

        assert len(made) == 20

    def test_one_that_is_there_is_not_replaced(self, tmp_path: Path) -> None:
        """Not even where it cannot be read: a log may depend on it."""
        path = tmp_path / "keyring.json"
        path.write_text("damaged")

        with pytest.raises(KeyringInvalid):
            make_keyring(path)

        assert path.read_text() == "damaged"

    def test_processes_that_start_together_get_the_same(self, tmp_path: Path) -> None:
        """Data planes and the agent all look for it at once."""
        spawn = multiprocessing.get_context("spawn")
        barrier = spawn.Barrier(3)
        with spawn.Pool(3, initializer=_meet, initargs=(barrier,)) as pool:
            found = pool.map(_race, [tmp_path] * 3, chunksize=1)

        assert len(found[0]) == 20
        assert found[0] == found[1] == found[2]

    def test_threads_that_start_together_get_the_same(self, tmp_path: Path) -> None:
        """As do processes of the same id: two containers on one volume."""
        together = threading.Barrier(4)
        found: list[list[str]] = []

        def race() -> None:
            found.append(_raced(tmp_path, together))

        threads = [threading.Thread(target=race) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(found) == 4
        assert found[0] == found[1] == found[2] == found[3]


_barrier: Barrier


def _meet(barrier: Barrier) -> None:
    global _barrier  # noqa: PLW0603 - a barrier reaches a pool's processes by inheritance alone
    _barrier = barrier


def _race(folder: Path) -> list[str]:
    return _raced(folder, _barrier)


def _raced(folder: Path, together: "Barrier | threading.Barrier") -> list[str]:
    """The fingerprints of twenty keyrings, each made by all at once."""
    made = []
    for i in range(20):
        together.wait(30)
        try:
            made.append(make_keyring(folder / f"{i}.json").fingerprint)
        except (OSError, KeyringInvalid) as error:
            made.append(repr(error))
    return made
