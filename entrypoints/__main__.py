"""The program: `hivebus`, or `python -m entrypoints`."""

from __future__ import annotations

from entrypoints.cli.app import cli


def main() -> None:
    """Run the command line; the process ends with the command's exit code."""
    cli.main(prog_name="hivebus")


if __name__ == "__main__":
    main()
