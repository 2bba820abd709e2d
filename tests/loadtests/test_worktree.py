"""A commit's worktree holds its files, runs its modules, and is gone afterwards, whatever happened."""

from pathlib import Path

import pytest

from loadtests.launch import Server
from loadtests.worktree import differing, worktree
from loadtests.wrk import BenchFailed
from tests.loadtests.repositories import git, worktrees

# Says what it is in the service's words, from a module of the tree, and from one that it starts itself.
_SAYS = """import os, subprocess, sys
from service.version import NAME
if sys.argv[1:]:
    sys.exit(print(NAME))
child = subprocess.check_output([sys.executable, "-m", "service", "child"], text=True).strip()
print(f"actd: serving {NAME}-{child} on http://127.0.0.1:1 (process {os.getpid()})", flush=True)
sys.stdin.read()
"""
PINS = "numpy==1\nonnx==2  # a remark\n"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits of a service that says which it is; the second is there, with changes that are in no commit."""
    root = tmp_path / "repository"
    (root / "service").mkdir(parents=True)
    git(root, "init", "--quiet")
    (root / "service" / "__init__.py").write_text("")
    (root / "service" / "__main__.py").write_text(_SAYS)
    (root / "pyproject.toml").write_text('[project]\nname = "x"\ndependencies = ["numpy>=1"]\n')
    (root / "constraints.txt").write_text(PINS)
    for name in ("old", "new"):
        (root / "service" / "version.py").write_text(f'NAME = "{name}"\n')
        git(root, "add", "--all")
        git(root, "commit", "--quiet", "--message", name)
    (root / "service" / "version.py").write_text('NAME = "changed"\n')
    return root


def test_a_commit_is_served_from_its_own_tree(repository: Path, tmp_path: Path) -> None:
    """It and what it starts run the commit's modules, and not those of the tree beside it."""
    with worktree("HEAD~1", tmp_path, repository) as tree:
        assert tree.commit == git(repository, "rev-parse", "HEAD~1")
        with Server("old", ["-m", "service"], tmp_path / "log", tree.root) as old:
            assert old.serving.label == "old-old"
        with Server("here", ["-m", "service"], tmp_path / "log", repository) as here:
            assert here.serving.label == "changed-changed"

    assert not tree.root.exists()
    assert worktrees(repository) == []


@pytest.mark.parametrize("wrong", [BenchFailed, SystemExit, KeyboardInterrupt])
def test_it_is_gone_when_the_run_fails(wrong: type[BaseException], repository: Path, tmp_path: Path) -> None:
    """A sentence, a signal or Ctrl-C: git knows of no worktree that is not there."""
    with pytest.raises(wrong), worktree("HEAD", tmp_path, repository) as tree:
        raise wrong

    assert not tree.root.exists()
    assert worktrees(repository) == []


def test_it_is_gone_when_somebody_was_there_first(repository: Path, tmp_path: Path) -> None:
    """A folder that was taken away while it was used leaves no note of it either."""
    with worktree("HEAD", tmp_path, repository) as tree:
        tree.root.rename(tmp_path / "elsewhere")

    assert worktrees(repository) == []


@pytest.mark.parametrize("commit", ["nowhere", "--quiet", "HEAD:service", ""])
def test_what_is_no_commit_is_a_sentence(commit: str, repository: Path, tmp_path: Path) -> None:
    """Nothing is checked out then."""
    with pytest.raises(BenchFailed, match="git rev-parse"), worktree(commit, tmp_path, repository):
        pytest.fail("there is no such commit")

    assert not (tmp_path / "against").exists()


def test_where_there_is_no_repository_it_says_so(tmp_path: Path) -> None:
    """A tree that was unpacked from an archive has no other commits."""
    with pytest.raises(BenchFailed, match="not a git repository"), worktree("HEAD", tmp_path, tmp_path):
        pytest.fail("there is no repository")


def test_hooks_are_not_run(repository: Path, tmp_path: Path) -> None:
    """What a repository does after a checkout is for people."""
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    hook.chmod(0o755)

    with worktree("HEAD", tmp_path, repository):
        assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("constraints.txt", "numpy==1\nonnx==3\n", ("-onnx==2", "+onnx==3")),
        ("constraints.txt", "# as before\nonnx==2\n\nnumpy==1", ()),
        ("pyproject.toml", '[project]\ndependencies = ["numpy>=1", "uvloop"]\n', ("+uvloop",)),
        ("pyproject.toml", '[project]\nname = "y"\ndependencies = ["numpy>=1"]\n', ()),
    ],
)
def test_other_dependencies_are_told(
    file: str, text: str, expected: tuple[str, ...], repository: Path, tmp_path: Path
) -> None:
    """Whether ranges or pins are others, and not whether the files are."""
    with worktree("HEAD", tmp_path, repository) as tree:
        (tree.root / file).write_text(text)

        assert differing(repository, tree.root) == expected


def test_a_server_runs_the_tree_that_it_is_told(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever PYTHONPATH says, and where Python does not look into the folder that it starts in."""
    elsewhere = tmp_path / "elsewhere" / "service"
    elsewhere.mkdir(parents=True)
    (elsewhere / "__main__.py").write_text("raise SystemExit('the wrong tree')")
    monkeypatch.setenv("PYTHONPATH", str(elsewhere.parent))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")

    with Server("here", ["-m", "service"], tmp_path / "log", repository) as here:
        assert here.serving.label == "changed-changed"


def test_a_hook_of_another_repository_may_run_it(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git tells its hooks which repository it is about; that is not the one here."""
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))

    with worktree("HEAD", tmp_path, repository) as tree:
        assert (tree.root / "service" / "version.py").read_text() == 'NAME = "new"\n'
