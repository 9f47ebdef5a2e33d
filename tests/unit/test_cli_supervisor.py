"""How long a process that died waits for its next start."""

from __future__ import annotations

from cli.supervisor import next_backoff


def test_the_first_restart_is_quick_and_each_later_one_slower() -> None:
    waits = [next_backoff(0.0, lived=1.0)]
    for _ in range(7):
        waits.append(next_backoff(waits[-1], lived=1.0))
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_a_process_that_lived_30_s_starts_quickly_again() -> None:
    assert next_backoff(5.0, lived=29.9) == 5.0
    assert next_backoff(5.0, lived=30.0) == 0.1
