"""What all commands have in common: the help with examples, `--json`, and how each ends.

A command returns its exit code (None: all good) and raises a Failure for what went wrong; nobody else prints errors.
"""

from __future__ import annotations

import difflib
import os
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import click

from entrypoints.cli.failures import Crash, Exit, Failure
from entrypoints.cli.http import Client
from entrypoints.cli.output import emit, note

DEBUG_VARIABLE = "HIVEBUS_DEBUG"
INTERRUPTED = "Interrupted. What the server has accepted goes on there."
_SENTENCE = "hivebus.interrupted"


class Verb(click.Command):
    """A command with examples in its help, that ends in a sentence and an exit code whatever happens."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, ready to be copied."""
        write_examples(self.examples, formatter)

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; a Failure becomes its sentence and its exit code."""
        return guarded(ctx, lambda: super(Verb, self).invoke(ctx))


class Noun(click.Group):
    """The verbs of one noun, sorted by name; `alone` is the verb that the noun means without one."""

    def __init__(
        self, *args: Any, examples: Sequence[str] = (), alone: click.Command | None = None, **kwargs: Any
    ) -> None:
        if alone is not None:
            kwargs |= {"invoke_without_command": True, "params": list(alone.params), "callback": self._alone}
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.alone = alone

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, ready to be copied."""
        write_examples(self.examples, formatter)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """The verb of the first word; for one that does not exist, those that look like it."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=3)
            if not near:
                raise
            raise click.UsageError(f"{error.message} Did you mean {' or '.join(near)}?", ctx) from None

    def _alone(self, **params: Any) -> None:
        ctx = click.get_current_context()
        if ctx.invoked_subcommand is None and self.alone is not None:
            verb = self.alone
            guarded(ctx, lambda: ctx.invoke(verb, **params))


def write_examples(examples: Sequence[str], formatter: click.HelpFormatter) -> None:
    """The last part of a help page."""
    if examples:
        with formatter.section("Examples"):
            for example in examples:
                formatter.write(f"{' ' * formatter.current_indent}{example}\n")


def guarded(ctx: click.Context, run: Callable[[], Any]) -> Any:
    """Run a command's body; the only place where errors meet the user."""
    as_json = bool(ctx.params.get("as_json"))
    try:
        code = run()
    except Failure as failure:
        report(failure, as_json=as_json)
        code = failure.exit_code
    except KeyboardInterrupt:
        note("\n" + ctx.meta.get(_SENTENCE, INTERRUPTED))
        code = Exit.INTERRUPTED
    except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
        raise  # click's own, and a reader of stdout that went away: click ends both well
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            traceback.print_exc()
        crash = Crash(
            f"hivebus failed: {type(error).__name__}: {error}",
            remedy=f"Run it again with {DEBUG_VARIABLE}=1 to see where, and please report it.",
        )
        report(crash, as_json=as_json)
        code = crash.exit_code
    ctx.exit(int(code or Exit.OK))


def report(failure: Failure, *, as_json: bool) -> None:
    """A sentence and a remedy on stderr; with --json the problem document on stdout besides."""
    note(f"Error: {failure.sentence}")
    if failure.remedy:
        note(failure.remedy)
    if as_json:
        emit(failure.problem())


def when_interrupted(sentence: str) -> None:
    """What to say if the user presses Ctrl-C from here on."""
    click.get_current_context().meta[_SENTENCE] = sentence


def client() -> Client:
    """The connection of this command, closed with it."""
    connection = Client(note=note)
    click.get_current_context().call_on_close(connection.close)
    return connection


def json_option() -> click.Option:
    """`--json`, the same everywhere."""
    return click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON document.")


def refuse_usage(sentence: str) -> NoReturn:
    """End with click's usage error: exit 2 and a pointer to --help."""
    raise click.UsageError(sentence)
