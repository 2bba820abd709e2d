"""Worktree: another commit's tree beside this one, for as long as it is measured."""

import os
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtests.launch import ROOT
from loadtests.wrk import BenchFailed

_WITHIN_S = 120.0


@dataclass(frozen=True, slots=True)
class Tree:
    """A commit's tree: where it is, its full hash, and which dependencies are not those of the tree beside it."""

    root: Path
    commit: str
    differing: tuple[str, ...]


@contextmanager
def worktree(commit: str, folder: Path, beside: Path = ROOT) -> Iterator[Tree]:
    """Check ``commit`` out into ``folder`` until the end of the block; raises BenchFailed where git cannot.

    No environment is made for it: it runs with the one of the tree ``beside``, and ``differing`` says what of that
    is not what the commit asks for.
    """
    found = _git(beside, "rev-parse", "--verify", "--end-of-options", f"{commit}^{{commit}}")
    root = folder / "against"
    try:
        # A hook may do anything with a new tree.
        _git(beside, "-c", "core.hooksPath=/dev/null", "worktree", "add", "--quiet", "--detach", str(root), found)
        yield Tree(root, found, differing(beside, root))
    finally:
        _remove(beside, root)


def differing(here: Path, there: Path) -> tuple[str, ...]:
    """Dependencies that one tree asks for and the other does not, as lines of a diff: ``-`` is here, ``+`` there."""
    ours, theirs = _dependencies(here), _dependencies(there)
    return tuple([f"-{one}" for one in sorted(ours - theirs)] + [f"+{one}" for one in sorted(theirs - ours)])


def _dependencies(root: Path) -> set[str]:
    """What the service of a tree needs, and the versions that the tree is tested with."""
    found: set[str] = set()
    project, pins = root / "pyproject.toml", root / "constraints.txt"
    if project.is_file():
        found |= set(tomllib.loads(project.read_text("utf-8")).get("project", {}).get("dependencies", ()))
    if pins.is_file():
        lines = (line.partition("#")[0].strip() for line in pins.read_text("utf-8").splitlines())
        found |= {line for line in lines if line}
    return found


def _remove(beside: Path, root: Path) -> None:
    """Take the tree and git's note of it away, also where git was ended while it made them."""
    try:
        # Twice: what git was making when it was ended is locked.
        _git(beside, "worktree", "remove", "--force", "--force", str(root))
    except BenchFailed:
        shutil.rmtree(root, ignore_errors=True)
        _git(beside, "worktree", "prune")


def _git(where: Path, *arguments: str) -> str:
    """What git says; raises BenchFailed with its last words where it fails."""
    git = shutil.which("git")
    if git is None:
        msg = "git is not installed, and it checks out the commit to measure against: install the Debian package git"
        raise BenchFailed(msg)
    command = [git, "-C", str(where), *arguments]
    # Run from a hook, git would take the hook's repository for this one.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=_WITHIN_S, check=False)
    except subprocess.TimeoutExpired as error:
        msg = f"git {arguments[0]} did not end within {_WITHIN_S:g} s"
        raise BenchFailed(msg) from error
    if done.returncode != 0:
        told = done.stderr.strip().splitlines()
        msg = f"git {' '.join(arguments)}: {told[-1] if told else f'status {done.returncode}'}"
        raise BenchFailed(msg)
    return done.stdout.strip()
