"""Whose code an error came up in."""

import site
from pathlib import Path

import pytest

from icm_api.cli.blame import blamed


def raised_in(file: str) -> BaseException:
    """An error from code of that file."""
    try:
        exec(compile("raise KeyError('x')", file, "exec"))
    except KeyError as error:
        return error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
    raise AssertionError


@pytest.mark.parametrize(
    "folder",
    [
        site.getusersitepackages(),
        "/usr/lib/python3/dist-packages",
        "/opt/another/lib/python3.12/site-packages",
        "/home/me/.venv/lib/python3.11/site-packages/",
    ],
)
def test_installed_packages_are_not_the_user_s_code_wherever_they_are(folder):
    assert blamed(raised_in(str(Path(folder) / "theirs" / "module.py"))) is None


def test_a_file_of_the_user_s_is(tmp_path):
    assert blamed(raised_in(str(tmp_path / "mine.py"))) == f"{tmp_path / 'mine.py'}, line 1: KeyError: 'x'"
