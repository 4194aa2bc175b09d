"""What a frame costs at 1,000 clients, in CPU of the whole program, beside a loop that does nothing but write."""

from __future__ import annotations

from tests.accept.script import Figures, Options, bench_of, expect, main


def run(options: Options) -> Figures:
    """At most 1.3 times the CPU of a shared-frame loop, in the same run with the same clients."""
    frames: Figures = bench_of("frames", options)
    expect(frames["ratio"] <= frames["reach"], f"a frame costs {frames['ratio']} of the loop's CPU: {frames}")
    return frames


if __name__ == "__main__":
    main("frame-cost", run)
