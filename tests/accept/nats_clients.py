"""Ten-line NATS programs in two languages: with only what `hivebus env` printed, accepted or the reason."""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path

from tests import nats_examples
from tests.accept.program import Program
from tests.accept.script import Figures, Options, expect, main, note

ENDED_S = 30.0
REFUSED = "literal_secret: This looks like a secret; the log would keep it for ever."


def run(options: Options) -> Figures:
    """Each program submits a task that runs, and one that is refused."""
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            commands = {"python": nats_examples.python_example(), "node": nats_examples.node_example(Path(folder))}
        except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
            expect(False, f"the package of the Node program cannot be installed: {error}")
            raise
        with Program(Path(folder) / "data") as program:
            printed = nats_examples.printed(program.root)
            values = {name: value for name, value in printed.items() if name.startswith("NATS_")}
            expect(len(values) == 4, f"hivebus env printed {sorted(printed)}")
            for language, command in commands.items():
                note(f"{language}: {' '.join(command)}")
                said = nats_examples.submit(command, values, "echo", language)
                word, _, task_id = said.partition(" ")
                expect(word == "accepted", f"{language} printed {said!r}")
                output = _output(program, task_id)
                expect(output == f"{language}\n", f"the task of {language} printed {output!r}")
                said = nats_examples.submit(command, values, "deploy", "--token=abcdefgh")
                expect(said == REFUSED, f"{language} printed {said!r}")
                figures[language] = "accepted, refused"
    return figures


def _output(program: Program, task_id: str) -> str:
    client = program.client()
    deadline = time.monotonic() + ENDED_S
    while (task := client.get(f"/api/tasks/{task_id}"))["status"] != "completed":
        expect(time.monotonic() < deadline, f"task {task_id} is {task['status']} after {ENDED_S:g} s")
        time.sleep(0.05)
    client.close()
    return str(task["result"]["stdout"])


if __name__ == "__main__":
    main("nats-clients", run)
