"""For the tests of the exporter: torch's table of ONNX operators is made once, not for each of hundreds of exports."""

import pytest

from tests.export.translations import made_once


@pytest.fixture(autouse=True, scope="session")
def _translations() -> None:
    made_once()
