"""The command line: `icm-api`. Data goes to standard output, talk to standard error."""

from icm_api.cli.app import main

__all__ = ["main"]
