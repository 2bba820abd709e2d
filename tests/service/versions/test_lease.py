"""The state page: a whole page or none, and a lease that ends by itself."""

import zlib
from pathlib import Path

import pytest

from service.versions.lease import LEASE_S, Lease, Page, read_page, write_page

PAGE = Page(generation=3, heartbeat=17)


def test_a_page_is_read_as_it_was_written(tmp_path: Path) -> None:
    """The last page that was published stands alone in its folder."""
    path = tmp_path / "agent.page"
    for heartbeat in range(3):
        write_page(path, Page(generation=1, heartbeat=heartbeat))
    write_page(path, PAGE)

    assert read_page(path) == PAGE
    assert [file.name for file in tmp_path.iterdir()] == ["agent.page"]


def test_no_page_is_none(tmp_path: Path) -> None:
    """Before the agent's first page, and where a folder is in its place."""
    (tmp_path / "folder.page").mkdir()

    assert read_page(tmp_path / "agent.page") is None
    assert read_page(tmp_path / "folder.page") is None


def test_a_damaged_page_is_none(tmp_path: Path) -> None:
    """Any bit that changed, any byte that is missing, makes it no page."""
    path = tmp_path / "agent.page"
    write_page(path, PAGE)
    line = path.read_bytes()
    damaged = [line[:i] + bytes([line[i] ^ 1 << bit]) + line[i + 1 :] for i in range(len(line) - 1) for bit in range(8)]

    for text in [*damaged, *(line[:i] for i in range(len(line))), line + b"x", line * 2]:
        path.write_bytes(text)
        assert read_page(path) is None, text


@pytest.mark.parametrize("text", [b"", b"null", b"[]", b"{}", b'{"generation":1}', b'{"generation":"1","heartbeat":1}'])
def test_a_page_that_says_something_else_is_none(tmp_path: Path, text: bytes) -> None:
    """A checksum that fits makes no page of what is none."""
    path = tmp_path / "agent.page"
    path.write_bytes(b"%08x %b\n" % (zlib.crc32(text), text))

    assert read_page(path) is None


def test_a_page_may_say_more_than_is_known_here(tmp_path: Path) -> None:
    """A newer agent beside an older data plane is understood as far as it goes."""
    text = b'{"v":1,"generation":3,"heartbeat":17,"weights":{"canary":0.1}}'
    path = tmp_path / "agent.page"
    path.write_bytes(b"%08x %b\n" % (zlib.crc32(text), text))

    assert read_page(path) == PAGE


def test_a_lease_begins_with_the_first_advance_that_is_seen() -> None:
    """What was written before this process began is no sign of life."""
    lease = Lease()
    before = lease.holds(0.0)
    lease.see(PAGE, 0.0)
    found = lease.holds(0.0)
    lease.see(Page(generation=4, heartbeat=18), 1.0)

    assert (before, found, lease.holds(1.0)) == (False, False, True)
    assert lease.generation == 4


def test_a_lease_ends_where_nothing_advances() -> None:
    """The same page again, or none, renews nothing; the next advance does."""
    lease = Lease()
    lease.see(Page(generation=1, heartbeat=1), 0.0)
    lease.see(Page(generation=1, heartbeat=2), 0.0)
    for now in (1.0, 2.0, 3.0):
        lease.see(Page(generation=1, heartbeat=2), now)
        lease.see(None, now)
    held = [lease.holds(now) for now in (LEASE_S - 0.001, LEASE_S)]
    lease.see(Page(generation=1, heartbeat=3), 10.0)

    assert held == [True, False]
    assert [lease.holds(now) for now in (10.0, 14.9, 15.0)] == [True, True, False]


def test_an_agent_that_fails_says_why_and_renews_nothing() -> None:
    """Its heartbeat stands still; what it said is told until it works again, and silence is told from it."""
    lease = Lease(seconds=2.0)
    said = [lease.agent(0.0)]
    for now, page in (
        (0.0, Page(generation=1, heartbeat=1)),
        (1.0, Page(generation=1, heartbeat=2)),
        (2.0, Page(generation=1, heartbeat=2, failing="ship: redis refused: full")),
        (3.0, Page(generation=1, heartbeat=2, failing="ship: redis refused: full")),
        (4.0, Page(generation=1, heartbeat=3)),
        (9.0, None),
    ):
        lease.see(page, now)
        said.append(lease.agent(now))

    assert said == ["silent", "silent", "works", *["failing: ship: redis refused: full"] * 2, "works", "silent"]


def test_an_agent_that_starts_again_is_a_sign_of_life() -> None:
    """A heartbeat that counts from the beginning has changed as well."""
    lease = Lease(seconds=2.0)
    lease.see(Page(generation=9, heartbeat=100), 0.0)
    lease.see(Page(generation=9, heartbeat=1), 5.0)

    assert lease.holds(6.9)
    assert repr(lease) == "<Lease heartbeat 1, generation 9, until 7.0>"


def test_a_page_is_published_where_its_folder_was_taken_away(tmp_path: Path) -> None:
    """It is made again, and is its owner's alone."""
    write_page(tmp_path / "data" / "state" / "agent.page", Page(generation=1, heartbeat=2))

    assert read_page(tmp_path / "data" / "state" / "agent.page") == Page(generation=1, heartbeat=2)
    assert (tmp_path / "data" / "state").stat().st_mode & 0o077 == 0
