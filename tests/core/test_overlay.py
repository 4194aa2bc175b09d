"""What was decided and is not yet read back."""

from __future__ import annotations

from core.scheduling.fleet import Fleet
from core.scheduling.overlay import Overlay


def overlay_of(*settled: tuple[str, int]) -> Overlay:
    """Commands under way, with the positions of their outcomes in the order in which these came."""
    overlay = Overlay()
    for key, _ in settled:
        overlay.hold(key)
    for key, position in settled:
        overlay.settle(key, position)
    return overlay


def at(position: int) -> Fleet:
    fleet = Fleet()
    fleet.position = position
    return fleet


def test_what_the_fold_has_reached_is_dropped_whatever_settled_first() -> None:
    overlay = overlay_of(("later", 9), ("earlier", 3), ("between", 5))
    overlay.hold("unknown")
    overlay.sweep(at(5))
    assert overlay.keys() == {"later", "unknown"}
    overlay.sweep(at(9))
    assert overlay.keys() == {"unknown"}


def test_a_key_that_is_held_again_is_not_dropped_for_its_former_outcome() -> None:
    overlay = overlay_of(("t", 3))
    overlay.drop("t")
    overlay.hold("t")
    overlay.sweep(at(3))
    assert overlay.keys() == {"t"}


def test_who_settles_again_waits_for_the_newer_position() -> None:
    overlay = overlay_of(("t", 3))
    overlay.settle("t", 7)
    overlay.sweep(at(3))
    assert overlay.keys() == {"t"}
    overlay.sweep(at(7))
    assert not overlay.keys()
