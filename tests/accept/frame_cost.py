"""What a frame costs at 1,000 clients, in CPU of the whole program, beside a loop that does nothing but write."""

from __future__ import annotations

from tests.accept.script import Figures, Options, bench_of, main


def run(options: Options) -> Figures:
    """At most 1.3 times the CPU of a shared-frame loop, in the same run with the same clients.

    Time is printed and never asserted: a frame that costs more is said, and shown as such in the evidence.
    """
    frames: Figures = bench_of("frames", options)
    short = [f"a frame costs {frames['ratio']} > {frames['reach']}"] if frames["ratio"] > frames["reach"] else []
    return frames | {"falls_short": short}


if __name__ == "__main__":
    main("frame-cost", run)
