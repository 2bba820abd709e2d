"""Which statistics around a zip are its own: used where one can be meant, refused where several could be."""

from pathlib import Path

import pytest

from export.errors import CheckpointRefused, OptionInvalid
from export.sb3.around import Around, Folder, around
from export.sb3.beside import Meant, all_near, meant, owner_of, statistics_beside


def laid(folder: Path, names: str) -> None:
    """Make the files of a layout; each holds its own name, or what stands behind "=" in it."""
    for word in names.split():
        name, _, content = word.partition("=")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content or name)


def used(folder: Path, name: str) -> str:
    """Give the statistics of a zip, relative to the folder; empty for none."""
    found = statistics_beside(Path(name).name, around(folder / name))
    return "" if found is None else str(found.resolve().relative_to(folder.resolve()))


@pytest.mark.parametrize(
    "name",
    [
        "vecnormalize.pkl",
        "vec_normalize.pkl",
        "VecNormalize.pkl",
        "VEC_NORMALIZE.PKL",
        "vecnorm.pkl",
        "vec-normalise.pkl",
        "vec_normalize_stats.pkl",
        "vec_env_normalize.pkl",
        "vec_normalize",
        "vecnormalize.pickle",
        "X.vecnormalize.pkl",
        "X_vecnormalize.pkl",
        "X_vec_normalize.pkl",
        "X-vecnormalize.pkl",
        "X.VecNormalize.pkl",
        "x_vecnormalize.pkl",
        "X.zip.vecnormalize.pkl",
        "X.vecnormalize",
        "vecnormalize_X.pkl",
        "X/vecnormalize.pkl",
        "X/vec_normalize.pkl",
        "X/X_vecnormalize.pkl",
        "x/vecnormalize.pkl",
        "stats/X_vecnormalize.pkl",
        "../vecnormalize.pkl",
        "../VecNormalize.pkl",
        "../X_vecnormalize.pkl",
    ],
)
def test_statistics_are_found_where_people_keep_them(tmp_path: Path, name: str) -> None:
    """Beside the zip, in the folder named like it, and one level up, under all the names that they go by."""
    laid(tmp_path / "runs" / "one", f"X.zip other.txt X/config.yml {name}")

    assert used(tmp_path / "runs", "one/X.zip") == str(Path("one", name)).replace("one/../", "")


@pytest.mark.parametrize(
    ("files", "zip_", "statistics"),
    [
        # A file named after another zip is that zip's.
        ("a.zip b.zip b.vecnormalize.pkl", "a.zip", ""),
        ("a.zip b.zip b.vecnormalize.pkl", "b.zip", "b.vecnormalize.pkl"),
        ("a.zip a_b.zip a_b_vecnormalize.pkl", "a.zip", ""),
        ("a.zip b.zip b/vecnormalize.pkl", "a.zip", ""),
        ("a.zip b.zip stats/b_vecnormalize.pkl", "a.zip", ""),
        ("a/a.zip b/b.zip b/vecnormalize.pkl b_vecnormalize.pkl", "a/a.zip", ""),
        # A folder with zips in it is another run's.
        ("a.zip old/b.zip old/vecnormalize.pkl", "a.zip", ""),
        # What CheckpointCallback wrote together belongs together.
        (
            "rl_model_20_steps.zip rl_model_vecnormalize_20_steps.pkl vecnormalize.pkl X/vecnormalize.pkl",
            "rl_model_20_steps.zip",
            "rl_model_vecnormalize_20_steps.pkl",
        ),
        ("m_10_steps.zip m_20_steps.zip m_vecnormalize_20_steps.pkl", "m_10_steps.zip", ""),
        ("m_10_steps.zip m_vecnormalize_10_steps.pkl m_vecnormalize_20_steps.pkl", "m_10_steps.zip", "*10_steps.pkl"),
        # One file without a name is everybody's.
        ("a.zip b.zip vecnormalize.pkl", "b.zip", "vecnormalize.pkl"),
        # A name goes before none, where the other one has somebody else whose it can be.
        ("a.zip b.zip a_vecnormalize.pkl vecnormalize.pkl", "a.zip", "a_vecnormalize.pkl"),
        ("a.zip b.zip a_vecnormalize.pkl vecnormalize.pkl", "b.zip", "vecnormalize.pkl"),
        # The same bytes twice are one thing.
        ("a.zip a_vecnormalize.pkl=1 vecnormalize.pkl=1 old_vecnormalize.pkl=1", "a.zip", "a_vecnormalize.pkl"),
        ("r/a.zip r/vecnormalize.pkl=1 vecnormalize.pkl=1", "r/a.zip", "r/vecnormalize.pkl"),
        # What lies above other zips is not asked about where there is something nearer.
        ("b.zip vecnormalize.pkl r/a.zip r/vecnormalize.pkl=2", "r/a.zip", "r/vecnormalize.pkl"),
        # Other files are no statistics.
        ("a.zip model.pkl vec.pkl norm.pkl vecnormalize.pkl.txt vecnormalize.py", "a.zip", ""),
    ],
)
def test_what_is_whose_goes_by_names(tmp_path: Path, files: str, zip_: str, statistics: str) -> None:
    """Many zips in one folder each have their own statistics, or none."""
    laid(tmp_path, files)

    assert used(tmp_path, zip_) == statistics.replace("*10_steps", "m_vecnormalize_10_steps")


@pytest.mark.parametrize(
    ("files", "zip_", "named"),
    [
        ("a.zip vecnormalize_final.pkl", "a.zip", "vecnormalize_final.pkl looks like"),
        ("walker_final.zip walker_vecnormalize.pkl", "walker_final.zip", "walker_vecnormalize.pkl looks like"),
        ("a.zip 1_vecnormalize.pkl 2_vecnormalize.pkl", "a.zip", "2_vecnormalize.pkl look like"),
        ("a.zip vecnormalize.pkl vec_normalize.pkl", "a.zip", "could each be"),
        ("a.zip vecnormalize.pkl vecnormalize_best.pkl", "a.zip", "could each be"),
        ("a.zip a_vecnormalize.pkl vecnormalize.pkl", "a.zip", "could each be"),
        ("a.zip a_vecnormalize.pkl a/vecnormalize.pkl", "a.zip", "could each be"),
        ("r/a.zip r/vecnormalize.pkl=1 vecnormalize.pkl=2", "r/a.zip", "could each be"),
        ("r/a.zip r/a/vecnormalize.pkl=1 vecnormalize.pkl=2", "r/a.zip", "could each be"),
        ("final.zip vecnormalize.pkl r/m_10_steps.zip", "r/m_10_steps.zip", "vecnormalize.pkl looks like"),
        ("a.zip r/a.zip a_vecnormalize.pkl", "r/a.zip", "a_vecnormalize.pkl looks like"),
        ("r/a.zip old_vecnormalize.pkl", "r/a.zip", "old_vecnormalize.pkl looks like"),
        # RL Zoo's own layout has them in the folder of the run for every zip that was written during it.
        ("X.zip X/vecnormalize.pkl best_model.zip", "best_model.zip", "X/vecnormalize.pkl looks like"),
        ("X.zip X/vecnormalize.pkl rl_model_9_steps.zip", "rl_model_9_steps.zip", "X/vecnormalize.pkl looks like"),
        ("X/vecnormalize.pkl policy.zip", "policy.zip", "X/vecnormalize.pkl looks like"),
        ("m_10_steps.zip m_vecnormalize_20_steps.pkl", "m_10_steps.zip", "m_vecnormalize_20_steps.pkl looks like"),
        ("a.zip a/b.zip a/vecnormalize.pkl", "a.zip", "a/vecnormalize.pkl looks like"),
    ],
)
def test_what_could_be_meant_is_refused_by_name(tmp_path: Path, files: str, zip_: str, named: str) -> None:
    """A file that looks like statistics and is not surely a zip's refuses the export, with the two ways out."""
    laid(tmp_path, files)

    with pytest.raises(OptionInvalid) as refused:
        used(tmp_path, zip_)
    assert named in str(refused.value)
    assert "say --normalisation " in str(refused.value)
    assert "--ignore-normalisation if it was trained without" in str(refused.value)


def test_statistics_under_any_name_are_seen(tmp_path: Path) -> None:
    """A pickle that begins with VecNormalize's name looks like statistics, whatever it is called."""
    pickled = b"\x80\x04\x95\x00\x8c\x31stable_baselines3.common.vec_env.vec_normalize\x94\x8c\x0cVecNormalize\x94"
    laid(tmp_path, "a.zip b.zip replay.pkl")
    (tmp_path / "env.pkl").write_bytes(pickled)

    with pytest.raises(OptionInvalid, match=r"env\.pkl looks like normalisation"):
        used(tmp_path, "a.zip")
    (tmp_path / "env.pkl").rename(tmp_path / "a.pkl")
    assert (used(tmp_path, "a.zip"), used(tmp_path, "b.zip")) == ("a.pkl", "")


@pytest.mark.parametrize("link", ["latest.zip", "elsewhere/best.zip"])
def test_a_link_is_looked_behind(tmp_path: Path, link: str) -> None:
    """The statistics may lie beside the link or beside what it leads to; where both have other ones, both are named."""
    laid(tmp_path, "runs/X_1/X.zip runs/X_1/X/vecnormalize.pkl elsewhere/other.txt")
    (tmp_path / link).symlink_to(tmp_path / "runs" / "X_1" / "X.zip")

    assert used(tmp_path, link) == "runs/X_1/X/vecnormalize.pkl"
    laid((tmp_path / link).parent, f"{Path(link).stem}_vecnormalize.pkl")
    with pytest.raises(OptionInvalid, match="could each be"):
        used(tmp_path, link)


def test_a_linked_folder_is_the_folder(tmp_path: Path) -> None:
    """A run behind a linked folder has its statistics once."""
    laid(tmp_path, "runs/X_1/X.zip runs/X_1/vecnormalize.pkl")
    (tmp_path / "now").symlink_to(tmp_path / "runs" / "X_1")

    assert used(tmp_path, "now/X.zip") == "runs/X_1/vecnormalize.pkl"


def test_paths_are_said_as_people_said_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed can be given to --normalisation as it is."""
    laid(tmp_path, "runs/X.zip runs/X/vecnormalize.pkl up/vec/norm.txt runs/b/b.zip")
    monkeypatch.chdir(tmp_path / "runs")

    assert statistics_beside("X.zip", around(Path("X.zip"))) == Path("X/vecnormalize.pkl")
    laid(tmp_path, "vecnormalize.pkl=X/vecnormalize.pkl")
    monkeypatch.chdir(tmp_path / "runs" / "b")
    (tmp_path / "runs" / "X.zip").unlink()
    laid(tmp_path, "runs/vecnormalize.pkl")
    assert statistics_beside("b.zip", around(Path("b.zip"))) == Path("../vecnormalize.pkl")


def test_what_cannot_be_looked_into_is_said_or_left(tmp_path: Path) -> None:
    """A zip that is not there is left to its reading; a broken link that looks like statistics is said."""
    laid(tmp_path, "a.zip b.zip")
    (tmp_path / "vecnormalize.pkl").symlink_to("nowhere")
    (tmp_path / "vec_normalize.pkl").write_text("1")

    assert around(tmp_path / "none" / "a.zip") == around(tmp_path / "none.zip") == ()
    with pytest.raises(CheckpointRefused, match=r"vecnormalize\.pkl cannot be read"):
        used(tmp_path, "a.zip")


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("vecnormalize.pkl", ""),
        ("vec_normalize_stats.pkl", ""),
        ("rl_model_vecnormalize_10_steps.pkl", "rl_model_10_steps"),
        ("a-b.vec_normalize.pkl", "a-b"),
        ("vecnormalize.final.pkl", "final"),
        ("my_vec_thing_norm.pkl", "my_vec_thing_norm"),
        (".vecnormalize.pkl", ""),
    ],
)
def test_the_owner_stands_in_the_name(name: str, owner: str) -> None:
    """What is left of a file's name without the word for statistics is what it is named after."""
    assert owner_of(name) == owner


def test_the_decision_needs_no_files() -> None:
    """It is made of names alone."""
    beside = Folder(Path("r"), zips=("a", "b"), statistics=("a_vecnormalize.pkl", "vecnormalize.pkl"))
    place = Around("a", beside)

    assert meant([place]) == Meant(Path("r/a_vecnormalize.pkl"))
    assert meant([Around("b", beside)]) == Meant(Path("r/vecnormalize.pkl"))
    assert meant([]) == Meant(None)
    assert all_near([place]) == (Path("r/a_vecnormalize.pkl"), Path("r/vecnormalize.pkl"))
