"""RL Zoo's settings: what they say was around the policy, and where an export contradicts them."""

from pathlib import Path

import pytest

from export.errors import CheckpointRefused
from export.sb3.zoo import Given, Zoo, contradictions, read_zoo
from tests.export.sb3.zips import shared

DICT = "!!python/object/apply:collections.OrderedDict\n"


def written(**settings: str) -> bytes:
    """Write settings as RL Zoo does: an OrderedDict of PyYAML's, with what each key's value is in YAML."""
    settings = {"n_timesteps": "1000.0", "policy": "MlpPolicy"} | settings
    pairs = "".join(
        f"{'- - -' if not at else '  - -'} {key}\n    - {value}\n" for at, (key, value) in enumerate(settings.items())
    )
    return f"{DICT}{pairs}".encode()


def against(data: bytes, given: Given) -> list[str]:
    """Give what a file contradicts."""
    return list(contradictions(read_zoo(data, "config.yml"), "config.yml", given))


@pytest.mark.parametrize(
    ("normalize", "normalised"),
    [
        ("true", True),
        ("\"{'norm_obs': True, 'norm_reward': False}\"", True),
        ("dict(norm_obs=True, norm_reward=False)", True),
        ("dict(norm_reward=False)", True),
        ("{norm_reward: true}", True),
        ("'True'", True),
        ("yes, why not", True),
        ("\"dict(**{'norm_obs': False})\"", True),
        ("!!python/object/apply:os.getcwd []", True),
        ("dict(norm_obs=False, norm_reward=True)", False),
        ("dict(norm_obs=False)", False),
        ("\"{'norm_obs': False}\"", False),
        ("{norm_obs: false, norm_reward: true}", False),
        ("false", False),
        ("null", False),
        ("'False'", False),
        ("'off'", False),
        ("0", False),
    ],
)
def test_normalize_is_read_in_all_its_forms(normalize: str, normalised: bool) -> None:
    """True, a text that RL Zoo evaluates, a table: what cannot be understood counts as normalised."""
    data = written(normalize=normalize)

    assert read_zoo(data, "config.yml").normalised == normalised
    assert bool(against(data, Given(False))) == normalised
    assert bool(against(data, Given(True))) != normalised
    assert against(data, Given(None)) == []


@pytest.mark.parametrize(
    ("settings", "given", "message"),
    [
        ({"normalize": "true"}, Given(False), "config.yml says normalize = True, but no statistics"),
        ({}, Given(True), "config.yml says nothing of normalize, so that observations were not normalised"),
        ({"normalize": "false"}, Given(True), "config.yml says normalize = False, so that"),
        (
            {"frame_stack": "4"},
            Given(False),
            "says frame_stack = 4, but --frame-stack is not given: say --frame-stack 4",
        ),
        ({"frame_stack": "4"}, Given(False, 3), "says frame_stack = 4, but --frame-stack is 3: say --frame-stack 4"),
        ({"frame_stack": "'4'"}, Given(False), "say --frame-stack 4"),
        ({"frame_stack": "four"}, Given(False), "frame_stack = an unknown number"),
        (
            {"vec_env_wrapper": "{stable_baselines3.common.vec_env.VecFrameStack: {n_stack: 3}}"},
            Given(False),
            "says the wrapper stable_baselines3.common.vec_env.VecFrameStack = 3",
        ),
        (
            {"vec_env_wrapper": "stable_baselines3.common.vec_env.VecNormalize"},
            Given(False),
            "says vec_env_wrapper = stable_baselines3.common.vec_env.VecNormalize, but no statistics",
        ),
        (
            {"env_wrapper": "[{gymnasium.wrappers.FrameStackObservation: {stack_size: 2}}]"},
            Given(False),
            "say --frame-stack 2",
        ),
        (
            {"env_wrapper": "sb3_contrib.common.wrappers.TimeFeatureWrapper"},
            Given(False),
            "but --time-feature is not given: say --time-feature STEPS",
        ),
        (
            {"env_wrapper": "[{utils.wrappers.TimeFeatureWrapper: {max_steps: 400}}]"},
            Given(False),
            "say --time-feature 400",
        ),
        (
            {"env_wrapper": "rl_zoo3.wrappers.MaskVelocityWrapper"},
            Given(False),
            "env_wrapper = rl_zoo3.wrappers.MaskVelocityWrapper, which is not known here",
        ),
        (
            {"env_wrapper": "[stable_baselines3.common.atari_wrappers.AtariWrapper]"},
            Given(False),
            "AtariWrapper, which is not known here",
        ),
        ({"env_wrapper": "!!python/name:mine.Wrapper ''"}, Given(False), "mine.Wrapper, which is not known here"),
        ({"env_wrapper": "\"['a.B', {'c.D': {}}]\""}, Given(False), "env_wrapper = c.D, which"),
    ],
)
def test_each_contradiction_says_its_way_out(settings: dict[str, str], given: Given, message: str) -> None:
    """What the file says, which option is missing, and what to say where callers do it themselves."""
    found = against(written(**settings), given)

    assert any(message in one for one in found)
    assert all("say --" in one for one in found)


@pytest.mark.parametrize(
    ("settings", "given"),
    [
        ({}, Given(False)),
        ({"normalize": "true"}, Given(True)),
        ({"normalize": "true", "normalize_kwargs": "{norm_obs: false}"}, Given(False)),
        ({"frame_stack": "4"}, Given(False, 4)),
        ({"frame_stack": "1"}, Given(False)),
        ({"frame_stack": "null"}, Given(False)),
        ({"frame_stack": "four"}, Given(False, 4)),
        ({}, Given(False, 4)),
        ({"env_wrapper": "null"}, Given(False)),
        ({"env_wrapper": "[]"}, Given(False)),
        ({"env_wrapper": "sb3_contrib.common.wrappers.TimeFeatureWrapper"}, Given(False, None, 1000)),
        (
            {"env_wrapper": "[gymnasium.wrappers.TimeLimit, {rl_zoo3.wrappers.DelayedRewardWrapper: {delay: 4}}]"},
            Given(False),
        ),
        ({"env_kwargs": "{frame_stack: 4}", "policy_kwargs": "dict(net_arch=[4])"}, Given(False)),
    ],
)
def test_what_agrees_is_no_contradiction(settings: dict[str, str], given: Given) -> None:
    """So are wrappers that change rewards and endings alone, and settings that are about something else."""
    assert against(written(**settings), given) == []


def test_several_contradictions_are_all_said() -> None:
    """Nobody has to run an export once for each."""
    data = written(normalize="true", frame_stack="4", env_wrapper="[a.B, c.D]")

    assert len(against(data, Given(False))) == 4


def test_arguments_are_read_for_what_they_override() -> None:
    """``args.yml`` has what was said on the command line; it does not say that nothing was normalised."""
    data = b"algo: ppo\nenv: A-v1\nenv_kwargs: {normalize: true}\nhyperparams: {frame_stack: 2}\nnorm_reward: false\n"

    assert read_zoo(data, "args.yml") == Zoo(None, "", (("frame_stack", 2),), ())
    assert against(data, Given(True, 2)) == []


def test_files_of_other_projects_count_only_where_theirs_lie() -> None:
    """A ``config.yml`` above or below the zip has to have what RL Zoo's has."""
    other = b"normalize: true\nmodel: big\n"

    assert read_zoo(other, "config.yml").normalised
    assert read_zoo(other, "config.yml", foreign=True) == Zoo(None, "", (), ())
    assert read_zoo(written(normalize="true"), "config.yml", foreign=True).normalised


@pytest.mark.parametrize("data", [b"", b"{}", f"{DICT}- []\n".encode(), b"!!python/object:a.B {x: 1}"])
def test_empty_settings_say_nothing(data: bytes) -> None:
    """Nor do those of other programs."""
    assert read_zoo(data, "config.yml") == Zoo(None, "", (), ())


@pytest.mark.parametrize("data", [b"[1, 2]", b"normalize: [", b"3", b"\xff", b"a: 1\n" * 100_000])
def test_what_is_no_table_is_a_sentence(data: bytes) -> None:
    """Damaged, oversized and other files are refused by their name."""
    with pytest.raises(CheckpointRefused, match=r"^config\.yml "):
        read_zoo(data, "config.yml")


def test_nothing_in_a_file_is_made_or_evaluated(tmp_path: Path) -> None:
    """Tags stay names, and a text that RL Zoo would evaluate is only parsed."""
    canary = tmp_path / "canary"
    made = f"!!python/object/apply:os.mkdir ['{canary}']"
    run = f"\"__import__('os').mkdir('{canary}')\""

    for value in (made, run):
        found = read_zoo(written(normalize=value, frame_stack=value, env_wrapper=value), "config.yml")
        assert found.normalised
    assert not canary.exists()


def test_the_shared_policies_settings_are_read() -> None:
    """What RL Zoo wrote years ago: one of them was normalised."""
    folder = shared("sb3", "ppo_MountainCar-v0.config.yml").parent
    found = {path.name: read_zoo(path.read_bytes(), path.name) for path in folder.glob("*.config.yml")}

    assert [name for name, zoo in found.items() if zoo.normalised] == ["ppo_MountainCar-v0.config.yml"]
    assert len(found) >= 6
    assert not any(zoo.stacks or zoo.wrappers for zoo in found.values())
