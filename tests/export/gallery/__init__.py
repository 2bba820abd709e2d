"""The gallery: every policy family from every source that it comes from, small, and stirred so that answers vary."""

from collections.abc import Callable, Mapping
from functools import cache

import pytest

from export.spec.artefact import Artefact
from tests.export.gallery import declared, others, sb3
from tests.export.gallery.exhibit import Exhibit
from tests.export.translations import made_once

GALLERY: Mapping[str, Callable[[], Exhibit]] = {**declared.TABLE, **sb3.table(sb3.SMALL), **others.TABLE}
# Their families come from their kind of source once more in the gallery, or are tested there under another name.
_AGAIN = frozenset(
    {
        "DDPG (cleanrl)",
        "DQN, states one-hot (sb3)",
        "Gaussian PPO (rllib)",
        "Gaussian, mean and std (torch module)",
        "MultiDiscrete, PPO (rllib)",
        "QR-DQN (safetensors)",
        "SAC, gSDE (sb3)",
        "ensemble, Gaussian (torch)",
        "masked (state dict)",
    }
)
# What tests are parametrised by; some are for `make soak`.
NAMES = [pytest.param(name, marks=[pytest.mark.soak] if name in _AGAIN else []) for name in GALLERY]


@cache
def shown(name: str) -> Exhibit:
    """Give an exhibit; made once, however many tests look at it."""
    return GALLERY[name]()


@cache
def artefact(name: str) -> Artefact:
    """Give an exhibit's file; written once, however many tests look at it."""
    made_once()
    return shown(name).artefact()
