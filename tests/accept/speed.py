"""The figures of `make bench`, each beside its yardstick in the same run. Printed, and what falls short is said."""

from __future__ import annotations

from tests.accept.script import Figures, Options, bench_of, main


def run(options: Options) -> Figures:
    """Append fast and durable, POST, recorder alone and with views, rebuild of one view and of all."""
    append, post, recorder, rebuild = (bench_of(name, options) for name in ("append", "post", "recorder", "rebuild"))
    reached = {
        "append fast": (append["ratio"], append["reach"]),
        "append durable": (append["durable"]["ratio"], append["durable"]["reach"]),
        "post": (post["ratio"], post["reach"]),
        "recorder": (recorder["recorder_per_s"], recorder["reach"]["recorder"]),
        "recorder with views": (recorder["with_views_per_s"], recorder["reach"]["with_views"]),
        "rebuild of one view": (rebuild["one_view_ratio"], rebuild["reach"]["one_view"]),
        "rebuild of all views": (rebuild["core_views_ratio"], rebuild["reach"]["core_views"]),
    }
    short = [f"{name} {value} < {reach}" for name, (value, reach) in reached.items() if value < reach]
    return {"append": append, "post": post, "recorder": recorder, "rebuild": rebuild, "falls_short": short}


if __name__ == "__main__":
    main("speed", run)
