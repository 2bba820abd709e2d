"""How to install what an extra of this package brings: the command that works where it is printed.

The package is on no index (its modules' names are generic), so that a name alone would install nothing, or somebody
else's.
"""

import importlib.metadata
import importlib.util
import json
import shlex
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

_NAME = "actd"


def install(extra: str) -> str:
    """Give the command that installs an extra, in quotes where a shell needs them; where none can, what to do."""
    return command(extra, here(), sys.executable, has_pip=importlib.util.find_spec("pip") is not None)


def command(extra: str, source: str, python: str, *, has_pip: bool) -> str:
    """Give the command for a ``source`` that pip takes: the folder of a clone, a ``git+`` address, or "" for neither.

    An environment without pip of its own, as ``make`` builds them, is installed into by any other pip.
    """
    if not source:
        return f"pip install -e '.[{extra}]' in a clone of {_NAME}'s repository, as it is on no index"
    pip = f"{shlex.quote(python)} -m pip" if has_pip else f"pip --python {shlex.quote(python)}"
    if source.startswith("git+"):
        return f"{pip} install {shlex.quote(f'{_NAME}[{extra}] @ {source}')}"
    return f"{pip} install -e {shlex.quote(f'{source}[{extra}]')}"


def here() -> str:
    """Give where this package is installed from: the folder of its clone, or the address that pip took; else ""."""
    root = Path(__file__).resolve().parents[2]
    if _is_clone(root):
        return str(root)
    try:
        told = json.loads(importlib.metadata.distribution(_NAME).read_text("direct_url.json") or "{}")
        url = str(told.get("url", ""))
        vcs = told.get("vcs_info") or {}
        if vcs.get("vcs") == "git":
            return f"git+{url}@{vcs.get('commit_id', '')}".rstrip("@")
    except (importlib.metadata.PackageNotFoundError, ValueError, AttributeError, OSError):
        return ""
    folder = unquote(urlsplit(url).path) if url.startswith("file:") else ""
    return folder if folder and _is_clone(Path(folder)) else ""


def _is_clone(folder: Path) -> bool:
    try:
        return f'name = "{_NAME}"' in (folder / "pyproject.toml").read_text("utf-8")
    except (OSError, ValueError):
        return False
