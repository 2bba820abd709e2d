"""``python -m tests.golden``: write the golden files anew, as this tree is. The journal of before stays as it is."""

import json
import sys
import tempfile
from pathlib import Path

from export.__main__ import main as export
from tests.export.translations import made_once
from tests.golden.surface import EXPORTS, PAGE, SHARED, SURFACE, everything, exported


def main() -> int:
    """Write them; what others trained keeps its digest where it is not here."""
    kept = json.loads(SURFACE.read_text("utf-8"))["shared policies"] if SURFACE.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        page, surface = everything(Path(folder))
        if SHARED.is_dir():
            made_once()
            kept = {name: exported(name, Path(folder), export) for name in EXPORTS}
    PAGE.write_text(json.dumps(page, sort_keys=True, separators=(",", ":")) + "\n", "utf-8")
    SURFACE.write_text(json.dumps({**surface, "shared policies": kept}, sort_keys=True, indent=1) + "\n", "utf-8")
    sys.stdout.write(f"{PAGE}\n{SURFACE}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
