"""What to install is said by a command that works in this clone, wherever it lies, and in a fresh interpreter."""

import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from export.spec.extras import command, here, install

ROOT = Path(__file__).resolve().parents[2]
# A finder that stands before all others and has no package of these names: as if they were not installed.
WITHOUT = """
import sys
class Without:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Without)
"""


def run(folder: Path, missing: str, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a new interpreter on the packages in a folder, without some that are installed."""
    code = WITHOUT.format(names=missing.split()) + program
    environment = {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=folder, env=environment
    )


@pytest.fixture(scope="module", params=["clone", "my own clone's"])
def clone(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A clone in a folder with a plain name, and in one that a shell has to be told of."""
    folder: Path = tmp_path_factory.mktemp("home") / request.param
    folder.mkdir()
    shutil.copy(ROOT / "pyproject.toml", folder)
    for package in ("export", "guards"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


EXPORT = "from export.__main__ import main; sys.exit(main(['x.npy', '-o', 'x-1.onnx']))"
ADOPT = "from export.__main__ import main; sys.exit(main(['adopt', 'x.onnx', '-o', 'x-1.onnx']))"
PLAY = "from export.playing import mean_return; mean_return('CartPole-v1', None, 1)"
PROVE = "import guards.proof.symbols"


@pytest.mark.parametrize(
    ("missing", "program", "package", "extra"),
    [
        ("torch", EXPORT, "torch", "export"),
        ("onnxscript tqdm", EXPORT, "tqdm", "export"),
        ("ruamel", ADOPT, "ruamel", "export"),
        ("gymnasium", PLAY, "gymnasium", "train"),
        ("z3", PROVE, "z3-solver", "verify"),
    ],
)
def test_a_fresh_interpreter_says_what_works_there(
    clone: Path, missing: str, program: str, package: str, extra: str
) -> None:
    """The last words are a command whose last word is the clone with an extra that its pyproject.toml has."""
    done = run(clone, missing, program)

    told = done.stderr.splitlines()[-1]
    before, _, said = told.partition("expected it installed: ")
    words = shlex.split(said)
    assert done.returncode != 0
    assert f"the package '{package}" in before
    assert words[-2:] == ["-e", f"{clone}[{extra}]"]
    assert sys.executable in words
    assert words[words.index("install") - 2 : words.index("install")] in (["-m", "pip"], ["--python", sys.executable])
    assert extra in tomllib.loads((clone / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]


@pytest.mark.parametrize(
    ("source", "has_pip", "expected"),
    [
        ("/a/clone", True, "/bin/python -m pip install -e '/a/clone[export]'"),
        ("/a/clone", False, "pip --python /bin/python install -e '/a/clone[export]'"),
        ("/a b/clone", True, "/bin/python -m pip install -e '/a b/clone[export]'"),
        ("git+https://x.y/z@abc", True, "/bin/python -m pip install 'actd[export] @ git+https://x.y/z@abc'"),
        ("", True, "pip install -e '.[export]' in a clone of actd's repository, as it is on no index"),
    ],
)
def test_the_command_fits_where_the_package_is_from(source: str, has_pip: bool, expected: str) -> None:
    """A clone, an address, or neither, as in the serving image; with the pip that the interpreter has, or another."""
    assert command("export", source, "/bin/python", has_pip=has_pip) == expected


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ('{{"url": "file://{clone}", "dir_info": {{}}}}', "{clone}"),
        ('{{"url": "file:///nowhere/at/all", "dir_info": {{}}}}', ""),
        ('{{"url": "https://x.y/z", "vcs_info": {{"vcs": "git", "commit_id": "abc"}}}}', "git+https://x.y/z@abc"),
        ("[1]", ""),
        ("{{", ""),
        (None, ""),
    ],
)
def test_an_installed_copy_asks_how_it_was_installed(tmp_path: Path, told: str | None, found: str) -> None:
    """Beside no pyproject.toml it takes what pip wrote down; what it did not write, or is gone, is no command."""
    (tmp_path / "export" / "spec").mkdir(parents=True)
    shutil.copy(ROOT / "export" / "spec" / "extras.py", tmp_path / "export" / "spec")
    (tmp_path / "export" / "spec" / "__init__.py").touch()
    about = tmp_path / "actd-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: actd\nVersion: 0.1.0\n")
    if told is not None:
        (about / "direct_url.json").write_text(told.format(clone=ROOT))

    done = run(tmp_path, "", "from export.spec.extras import here; print(here())")

    assert done.stdout.strip() == found.format(clone=ROOT)


def test_this_clone_is_known() -> None:
    """The tests run in one."""
    assert here() == str(ROOT)
    assert shlex.split(install("dev"))[-1] == f"{ROOT}[dev]"


def test_no_page_and_no_message_names_a_package_that_no_index_has() -> None:
    """``pip install actd`` would install nothing, or somebody else's."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    sources = [
        path for top in ("export", "guards", "service", "loadtests", "examples") for path in (ROOT / top).rglob("*.py")
    ]

    for path in (*pages, *sources):
        text = path.read_text("utf-8")
        assert "install 'actd" not in text, path
        assert "install actd" not in text, path
