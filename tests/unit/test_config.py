"""Flags beat environment variables beat the file, and every wrong value is named with its source."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from icm_api.cli.options import METHODS
from icm_api.config import TAKES, Method, ProviderConfig, RunConfig, load_config
from icm_api.errors import ConfigError

NEEDED = {"data": "d.jsonl", "task": "claims"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "icm.toml"
    path.write_text('seed = 1\nalpha = 20.0\ntask = "truthfulqa"\ncolumns = {claim = "text"}\n')
    return path


def test_flags_beat_the_environment_and_the_environment_beats_the_file(file: Path):
    environ = {"ICM_API_SEED": "2", "ICM_API_ALPHA": "30", "HOME": "/"}
    config = load_config(RunConfig, {**NEEDED, "alpha": 40.0}, environ, file)
    assert (config.seed, config.alpha, config.task, config.columns) == (2, 40.0, "claims", {"claim": "text"})


def test_lists_and_pairs_can_be_written_in_the_environment():
    environ = {"ICM_API_LABELS": "spam, ham", "ICM_API_PROVIDER_OPTIONS": "noise=0.5,bias=1"}
    config = load_config(RunConfig, NEEDED, environ)
    assert config.labels == ("spam", "ham")
    assert config.provider_options == {"noise": "0.5", "bias": "1"}


def test_every_problem_is_named_with_where_it_stands(file: Path):
    file.write_text("sed = 1\nalpha = -1.0\n")
    with pytest.raises(ConfigError) as error:
        load_config(RunConfig, {**NEEDED, "limit": 1}, {"ICM_API_CONCURRENCY": "many"}, file)
    text = str(error.value)
    assert f"file {file}, key sed: no such setting" in text
    assert f"file {file}, key alpha:" in text
    assert "--limit:" in text
    assert "environment variable ICM_API_CONCURRENCY:" in text


def test_a_misspelt_variable_is_an_error():
    with pytest.raises(ConfigError, match="ICM_API_SEEED: no such setting"):
        load_config(RunConfig, NEEDED, {"ICM_API_SEEED": "1"})


def test_a_missing_setting_is_named_as_its_flag():
    with pytest.raises(ConfigError, match="--task: field required"):
        load_config(RunConfig, {"data": "d"}, {})


def test_a_probe_passes_over_what_only_a_run_knows(file: Path):
    config = load_config(ProviderConfig, {"provider": "synthetic"}, {"ICM_API_TASK": "claims"}, file)
    assert config.provider == "synthetic"
    assert not hasattr(config, "task")


@pytest.mark.parametrize(("text", "message"), [(None, "no such configuration file"), ("a = [", "not valid TOML")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, text: str | None, message: str):
    path = tmp_path / "c.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(RunConfig, NEEDED, {}, path)


def test_a_setting_that_the_method_does_not_use_is_named_with_where_it_stands(file: Path):
    flags = {**NEEDED, "method": "zero-shot"}
    with pytest.raises(ConfigError) as error:
        load_config(RunConfig, flags, {"ICM_API_SEEDS": "4"}, file)
    assert str(error.value).splitlines() == [
        f"file {file}, key alpha: method zero-shot does not use it; sweep and anneal would (choose with --method)",
        "environment variable ICM_API_SEEDS: method zero-shot does not use it; anneal would (choose with --method)",
    ]


def test_a_class_prior_can_be_text_or_a_mapping():
    flags = {**NEEDED, "method": "zero-shot"}
    assert load_config(RunConfig, {**flags, "class_prior": "a=0.25,b=0.75"}, {}).class_prior == {"a": 0.25, "b": 0.75}
    assert load_config(RunConfig, {**flags, "class_prior": {"a": 0.25}}, {}).class_prior == {"a": 0.25}


def test_every_method_has_a_row_and_a_flag_value_and_takes_only_settings_there_are():
    assert set(TAKES) == set(get_args(Method)) == set(METHODS)
    assert frozenset().union(*TAKES.values()) <= set(RunConfig.model_fields)
