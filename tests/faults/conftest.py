"""The command line in this process, as the tests of `cli` have it."""

from tests.cli.conftest import icm, reviews, write

__all__ = ["icm", "reviews", "write"]
