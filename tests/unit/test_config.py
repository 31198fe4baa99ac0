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


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seeds", -1, "--seeds: Input should be greater than or equal to 1, not -1"),
        ("method", "swep", "or 'gold-few-shot', not 'swep'"),
        ("columns", "claim", "write it as name=value,name=value, not 'claim'"),
        ("price", ["x"], "--price: Input should be a valid string"),
    ],
)
def test_a_wrong_value_is_told_as_it_was_given(name: str, value: object, message: str):
    with pytest.raises(ConfigError) as error:
        load_config(RunConfig, {**NEEDED, name: value}, {})
    assert str(error.value).endswith(message)


@pytest.mark.parametrize("name", ["api_key_env", "extra_body", "provider_options"])
def test_a_value_that_may_be_a_key_is_never_told(name: str):
    with pytest.raises(ConfigError) as error:
        load_config(RunConfig, {**NEEDED, name: "sk-planted"}, {})
    assert "sk-planted" not in str(error.value)


def test_a_misspelt_variable_is_an_error():
    with pytest.raises(ConfigError, match="ICM_API_SEEED: no such setting"):
        load_config(RunConfig, NEEDED, {"ICM_API_SEEED": "1"})


@pytest.mark.parametrize(
    ("text", "environ", "guess"),
    [
        ("sed = 1", {}, "key sed: no such setting. Did you mean 'seed'?"),
        ("", {"ICM_API_MODLE": "m"}, "ICM_API_MODLE: no such setting. Did you mean 'ICM_API_MODEL'?"),
        ("quite_other = 1", {}, "key quite_other: no such setting"),
        ('api_key = "sk-planted"', {}, "a key is never written down: --api-key-env or api_key_env names the variable"),
        ('provider = "opnai"', {}, "unknown provider 'opnai'. Did you mean 'openai'?"),
    ],
)
def test_a_misspelt_name_gets_the_closest_one(file: Path, text: str, environ: dict[str, str], guess: str):
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(RunConfig, NEEDED, environ, file)
    assert guess in str(error.value)
    assert "sk-planted" not in str(error.value)


LAB = """
model = "everywhere"
top_k = 9
[providers.mylab]
base_url = "https://lab.example/v1"
api_key_env = "LAB_KEY"
model = "ours"
route = "chat"
context_tokens = 4096
extra_body = {pool = {fast = true}}
price = "1/2"
[providers.den]
dialect = "ollama"
"""


def test_a_host_of_the_file_stands_over_the_file_and_under_environment_and_flags(file: Path):
    file.write_text(LAB)
    config = load_config(
        RunConfig, {**NEEDED, "provider": "mylab", "route": "votes"}, {"ICM_API_CONTEXT_TOKENS": "512"}, file
    )
    assert (config.provider, config.base_url, config.api_key_env) == (
        "openai-compatible",
        "https://lab.example/v1",
        "LAB_KEY",
    )
    assert (config.model, config.top_k, config.context_tokens, config.route) == ("ours", 9, 512, "votes")
    assert (config.extra_body, config.price) == ({"pool": {"fast": True}}, "1/2")


def test_a_host_that_is_not_chosen_changes_nothing_and_one_can_have_another_dialect(file: Path):
    file.write_text(LAB)
    assert load_config(RunConfig, {**NEEDED, "provider": "synthetic"}, {}, file).model == "everywhere"
    assert load_config(RunConfig, NEEDED, {"ICM_API_PROVIDER": "den"}, file).provider == "ollama"


def test_a_run_whose_settings_came_from_a_host_of_the_file_stands_without_the_file(file: Path):
    file.write_text(LAB)
    config = load_config(RunConfig, {**NEEDED, "provider": "mylab"}, {}, file)
    assert load_config(RunConfig, config.model_dump(exclude_unset=True), {}) == config


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[providers.x]\nbase_ulr = 'a'", "table providers.x, key base_ulr: no such setting. Did you mean 'base_url'?"),
        ("[providers.x]\nseed = 1", "table providers.x, key seed: no such setting"),
        ("[providers.x]\napi_key = 'sk-planted'", "key api_key: no such setting (a key is never written down"),
        ("[providers.x]\ntop_k = 'many'", "table providers.x, key top_k: "),
        ("[providers.x]\napi_key_env = 'sk-planted'", "table providers.x, key api_key_env: "),
        ("[providers.x]\ndialect = 'olama'", "key dialect: unknown provider 'olama'. Did you mean 'ollama'?"),
        ("[providers.openai]\nmodel = 'm'", "'openai' is a built-in provider; choose another name"),
        ("providers = ['x']", "write each host of your own as a table [providers.NAME]"),
        ("[providers]\nx = 1", "write each host of your own as a table [providers.NAME]"),
        ("[providers.y]\nmodel = 'm'", "unknown provider 'x'. "),
    ],
)
def test_a_wrong_table_of_a_host_is_named_by_file_table_and_key(file: Path, table: str, message: str):
    file.write_text(table)
    with pytest.raises(ConfigError) as error:
        load_config(RunConfig, {**NEEDED, "provider": "x"}, {}, file)
    assert message in str(error.value)
    assert "sk-planted" not in str(error.value)


def test_an_extra_body_can_be_json_on_the_command_line():
    config = load_config(RunConfig, {**NEEDED, "extra_body": '{"thinking": {"type": "disabled"}}'}, {})
    assert config.extra_body == {"thinking": {"type": "disabled"}}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("thinking=off", "write it as a JSON object"),
        ("[1]", "dictionary"),
        ('{"logprobs": 1}', "'logprobs' cannot be given: this program sets"),
        ('{"n": 2, "max_tokens": 9}', "'max_tokens' and 'n' cannot be given: this program sets"),
        ('{"api_key": "sk-planted"}', "'api_key' may hold a key"),
        ('{"Authorization": "sk-planted"}', "'Authorization' may hold a key"),
        ('{"headers": {"Authorization": "sk-planted"}}', "'Authorization' may hold a key"),
        ('{"hosts": [{"more": [{"access_token": "sk-planted"}]}]}', "'access_token' may hold a key"),
        ('{"token": "sk-planted"}', "'token' may hold a key"),
    ],
)
def test_an_extra_body_that_cannot_be_sent_is_refused(body: str, message: str):
    with pytest.raises(ConfigError) as error:
        load_config(RunConfig, {**NEEDED, "extra_body": body}, {})
    assert "--extra-body: " in str(error.value)
    assert message in str(error.value)
    assert "sk-planted" not in str(error.value)


BOUND_ELSEWHERE = (
    *("max_tokens", "max_completion_tokens", "max_output_tokens", "best_of", "n"),
    *("temperature", "top_p", "logit_bias", "response_format"),
)


@pytest.mark.parametrize("name", BOUND_ELSEWHERE)
def test_an_extra_body_cannot_pass_limits_or_bend_probabilities(name: str):
    with pytest.raises(ConfigError, match=f"'{name}' cannot be given"):
        load_config(RunConfig, {**NEEDED, "extra_body": {name: 1}}, {})


@pytest.mark.parametrize("name", ["prompt_cache_key", "stop_token_ids", "tokens", "min_tokens", "keywords", "add_bos"])
def test_members_that_only_sound_like_keys_can_be_given(name: str):
    assert load_config(RunConfig, {**NEEDED, "extra_body": {name: 1}}, {}).extra_body == {name: 1}


@pytest.mark.parametrize(
    "name", ["x-goog-api-key", "apiKey", "private_key", "Set-Cookie", "client-secret", "X-Auth-Token"]
)
def test_other_names_of_keys_are_known(name: str):
    with pytest.raises(ConfigError, match="may hold a key"):
        load_config(RunConfig, {**NEEDED, "extra_body": {"a": {name: "sk-planted"}}}, {})


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
