"""The numerics of draws: their version and fingerprint stand in the log, and logs from before are read without."""

from pathlib import Path

import numpy as np
import pytest

from service.decision.explore import numerics
from service.decision.explore.explorers import chances_of
from service.decision.explore.numerics import NUMERICS, fingerprint
from service.log.records import Writer, decode_record, encode_record
from tests.in_process import serving


def test_a_fingerprint_is_the_same_each_time() -> None:
    """Sixteen hex digits, of numbers that are always the same."""
    assert fingerprint() == fingerprint()
    assert len(bytes.fromhex(fingerprint())) == 8


def test_another_arithmetic_has_another_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Already where one probability differs in its last bit."""
    before = fingerprint()

    def otherwise(scores: list[float], forbidden: int, temperature: float) -> list[float]:
        chances = list(chances_of(scores, forbidden, temperature))
        return [float(np.nextafter(chances[0], 2.0)), *chances[1:]]

    monkeypatch.setattr(numerics, "chances_of", otherwise)

    assert fingerprint() != before


def test_a_writer_says_by_which_arithmetic_it_draws(tmp_path: Path) -> None:
    """In its first record; one from before says nothing, and its line is written as it was."""
    with serving(tmp_path) as served:
        record = served.records()[0]
        assert isinstance(record, Writer)
        assert (record.numerics, record.fingerprint) == (NUMERICS, fingerprint())

        text = encode_record(record)
        old = text.replace(f',"numerics":{NUMERICS},"fingerprint":"{fingerprint()}"'.encode(), b"")
        before = decode_record(old)

        assert old != text
        assert isinstance(before, Writer)
        assert (before.numerics, before.fingerprint) == (0, "")
        assert encode_record(before) == old
