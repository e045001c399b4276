"""The command line: `raydiance ...`."""

from raydiance.cli.app import main

__all__ = ["main"]
