"""How much is sent at once where a store has no memory for it. How long is waited is tested with the agent's loop."""

from service.agent.backoff import Portion


def test_a_portion_is_a_quarter_after_each_refusal_and_never_nothing() -> None:
    """At most four refusals of 256 until one at a time is tried."""
    portion, sizes = Portion(256), []
    for _ in range(6):
        portion.refused()
        sizes.append(portion.size)

    assert sizes == [64, 16, 4, 1, 1, 1]
    assert repr(portion) == "<Portion 1 of 256>"


def test_a_portion_grows_again_while_it_is_taken() -> None:
    """From one to as much as ever."""
    portion = Portion(100)
    for _ in range(5):
        portion.refused()
    sizes = []
    for _ in range(11):
        portion.taken()
        sizes.append(portion.size)

    assert sizes == [2, 4, 7, 11, 17, 26, 40, 61, 92, 100, 100]
