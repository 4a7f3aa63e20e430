"""The learning rate after updates that had to be skipped: halved at each, doubled again in time."""

from scratchgpt.training.backoff import MOST_SKIPPED, RECOVERY, SMALLEST, Backoff


def after(backoff: Backoff, n_updates: int) -> Backoff:
    for _ in range(n_updates):
        backoff = backoff.after_update()
    return backoff


def test_an_undisturbed_run_has_nothing_to_remember() -> None:
    assert after(Backoff(), 3 * RECOVERY) == Backoff()


def test_the_rate_is_halved_and_recovers() -> None:
    backoff = Backoff().after_skip().after_skip()
    assert backoff == Backoff(0.25, 0, 2)
    assert after(backoff, 1) == Backoff(0.25, 1, 0)
    assert after(backoff, RECOVERY - 1) == Backoff(0.25, RECOVERY - 1, 0)
    assert after(backoff, RECOVERY) == Backoff(0.5, 0, 0)
    assert after(backoff, 2 * RECOVERY) == Backoff()


def test_a_skip_begins_the_recovery_anew() -> None:
    assert after(Backoff(0.5), RECOVERY - 1).after_skip() == Backoff(0.25, 0, 1)


def test_the_rate_never_vanishes() -> None:
    backoff = Backoff()
    for _ in range(2 * MOST_SKIPPED):
        backoff = after(backoff.after_skip(), 1)
    assert backoff == Backoff(SMALLEST, 1)
