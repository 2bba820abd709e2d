"""Repositories of git, as a test asks one."""

import os
import subprocess
from pathlib import Path


def git(where: Path, *arguments: str) -> str:
    """What git says; raises CalledProcessError."""
    command = ["git", "-C", str(where), "-c", "user.name=a", "-c", "user.email=a@localhost", *arguments]
    # Run from a hook, git would take the hook's repository for this one.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(command, env=clean, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def worktrees(where: Path) -> list[str]:
    """The worktrees of a bench that a repository knows of."""
    told = git(where, "worktree", "list", "--porcelain").splitlines()
    return [line for line in told if line.startswith("worktree") and line.endswith("/against")]


def known(where: Path) -> bool:
    """Whether it is a repository."""
    try:
        return bool(git(where, "rev-parse", "HEAD"))
    except (OSError, subprocess.CalledProcessError):
        return False
