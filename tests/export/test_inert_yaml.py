"""YAML that runs nothing: tags become names, and files that are damaged, endless or too large are sentences."""

import time
from pathlib import Path

import numpy as np
import pytest

from export.errors import CheckpointRefused
from export.inert_yaml import YAML_CAP, Tagged, read_yaml


def test_plain_values_are_plain() -> None:
    """Tables, lists, numbers, texts, truth and nothing come out as Python's own."""
    data = b"a: [1, 2.5, x]\nb: true\nc:\nd: {e: 'true'}\nf: &f [1]\ng: *f\n"

    assert read_yaml(data, "a.yml") == {
        "a": [1, 2.5, "x"],
        "b": True,
        "c": None,
        "d": {"e": "true"},
        "f": [1],
        "g": [1],
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("!!python/object/apply:os.mkdir ['{canary}']", ["{canary}"]),
        ("!!python/object/new:os.mkdir {{args: ['{canary}']}}", {"args": ["{canary}"]}),
        ("!!python/name:os.mkdir ''", ""),
        ("!mine [1]", [1]),
    ],
)
def test_tags_are_never_followed(tmp_path: Path, text: str, value: object) -> None:
    """What a tag would have made is only named, and what stood behind it is plain."""
    canary = tmp_path / "canary"
    written = text.format(canary=canary)

    found = read_yaml(f"x: {written}".encode(), "a.yml")

    assert isinstance(found, dict)
    assert isinstance(found["x"], Tagged)
    assert str(found["x"].value) == str(value).replace("{canary}", str(canary))
    assert not canary.exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a: [", "a.yml cannot be read"),
        (b"\xff\xfe\x00", "a.yml cannot be read"),
        (b"a: 1\n---\nb: 2\n", "expected a single document"),
        (b"? !!python/tuple [a, b]\n: 1", "unhashable"),
        (b"x: " + b"9" * 10_000, "a.yml cannot be read"),
        (b"x" * (YAML_CAP + 1), f"has {YAML_CAP + 1} bytes, expected at most {YAML_CAP}"),
        (b"a: " + b"[" * 5000, "nests brackets 5000 deep"),
        (b"- " * 20_000 + b"1", "a.yml cannot be read"),
        (b"a: &x [*x]", "contains itself"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(data: bytes, message: str) -> None:
    """Damaged, deep, endless and oversized files are refused, and nothing else is raised."""
    with pytest.raises(CheckpointRefused, match=message):
        read_yaml(data, "a.yml")


@pytest.mark.parametrize("line", ["a{n}: &a{n} [{many}]\n", "a{n}: &a{n}\n  <<: [{many}]\n  z{n}: 1\n"])
def test_a_small_file_does_not_become_a_large_one(line: str) -> None:
    """Aliases of aliases, and merges of merges, would be ten thousand million values."""
    first = "a0: &a0 {k: 1}\n"
    data = first + "".join(line.format(n=n, many=", ".join([f"*a{n - 1}"] * 10)) for n in range(1, 11))
    began = time.process_time()

    with pytest.raises(CheckpointRefused, match=r"repeats itself|expected at most 4096"):
        read_yaml(data.encode(), "a.yml")
    assert time.process_time() - began < 5


def test_damaged_files_are_read_or_refused() -> None:
    """Whatever letters change in what RL Zoo writes, no other error comes out."""
    base = (
        b"!!python/object/apply:collections.OrderedDict\n- - - frame_stack\n    - 4\n  - - normalize\n"
        b"    - '{''norm_obs'': True}'\n  - - policy_kwargs\n    - dict(net_arch=[256, 256])\n"
    )
    generator = np.random.default_rng(0)
    refused = 0

    for _ in range(300):
        data = bytearray(base)
        for _ in range(3):
            data[int(generator.integers(len(data)))] = int(generator.choice(list(b"-:!&*[]{}'\"?|>%@ \n#a1")))
        try:
            read_yaml(bytes(data), "a.yml")
        except CheckpointRefused:
            refused += 1

    assert 30 < refused < 300
