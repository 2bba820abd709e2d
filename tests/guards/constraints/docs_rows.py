"""Rows of the page about the configuration: one for each kind of constraint, with all of its settings."""

from pathlib import Path

from guards.constraints import Constraint

PAGE = Path(__file__).resolve().parents[3] / "docs" / "configuration.md"


def wanted(kind: type[Constraint]) -> str:
    """The row of a kind, as it begins: its settings, and what its class says of itself."""
    settings = ", ".join(f"`{name}`" for name in settings_of(kind))
    sentence = (kind.__doc__ or "").partition("\n")[0].rstrip(".").replace("``", "`")
    return f"| `{name_of(kind)}` | {settings} | {sentence} |"


def lacking(kind: type[Constraint], page: str) -> str | None:
    """What the page lacks of a kind: its row, or settings in it; None where it has all."""
    rows = [line for line in page.splitlines() if line.startswith(f"| `{name_of(kind)}` |")]
    if not rows:
        return wanted(kind)
    missing = [name for name in settings_of(kind) if f"`{name}`" not in rows[0]]
    return f"{rows[0]} lacks {missing}" if missing else None


def name_of(kind: type[Constraint]) -> str:
    """What a kind is called in a file."""
    name: str = kind.model_fields["kind"].default
    return name


def settings_of(kind: type[Constraint]) -> list[str]:
    """What a kind has beside what all have."""
    return [name for name in kind.model_fields if name not in {"kind", *Constraint.model_fields}]
