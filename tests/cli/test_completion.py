"""`icm-api completion`: the script, and what it offers while a command line is typed."""

import shutil
import subprocess

import pytest

from icm_api.cli.app import cli
from icm_api.cli.completion import PROGRAM, VARIABLE


@pytest.fixture
def offered(icm, monkeypatch):
    """`offered("run", "--prov")`: what the last word may become, as bash asks; `<file>` for any file."""

    def ask(*words: str) -> list[str]:
        monkeypatch.setenv("COMP_WORDS", " ".join((PROGRAM, *words)))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        monkeypatch.setenv(VARIABLE, "bash_complete")
        lines = [line.partition(",") for line in icm().out.split()]
        return [value if kind == "plain" else f"<{kind}>" for kind, _, value in lines]

    return ask


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_names_the_program_and_the_variable_by_which_it_asks(icm, shell):
    done = icm("completion", shell)
    assert done.code == 0
    assert PROGRAM in done.out
    assert f"{VARIABLE}={shell}_complete" in done.out
    assert done.err == ""


def test_the_help_says_how_to_install_it_in_each_shell(icm):
    text = icm("completion", "--help").out
    assert '~/.bashrc                   eval "$(icm-api completion bash)"' in text
    assert "~/.zshrc" in text
    assert "icm-api completion fish | source" in text


def test_an_unknown_shell_is_refused_with_those_there_are(icm):
    done = icm("completion", "csh")
    assert done.code == 2
    assert "'bash', 'zsh', 'fish'" in done.err


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_takes_the_script(icm):
    done = subprocess.run(["bash", "-n"], input=icm("completion", "bash").out, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_commands_options_and_choices_are_offered(offered):
    assert offered("comp") == ["compare", "completion"]
    assert set(offered("")) == set(cli.commands)
    assert offered("run", "data.jsonl", "--class") == ["--class-prior"]
    assert offered("run", "--method", "z") == ["zero-shot"]


def test_names_of_providers_and_tasks_are_offered(offered):
    assert offered("run", "--provider", "toge") == ["together"]
    assert offered("run", "--task", "t") == ["<file>", "truthfulqa"]


def test_data_are_files(offered):
    assert offered("run", "rev") == ["<file>"]


@pytest.mark.parametrize("command", ["resume", "show", "export", "report", "compare"])
def test_runs_are_offered_by_name_the_latest_first(offered, tmp_path, command):
    for name in ("20260101-a", "20260102-b", "notes"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    for name in ("20260101-a", "20260102-b"):
        (tmp_path / "runs" / name / "manifest.json").touch()
    assert offered(command, "2026") == ["<dir>", "20260102-b", "20260101-a"]
