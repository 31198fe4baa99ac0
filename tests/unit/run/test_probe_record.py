"""What a probe disproved is not relied on afterwards."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from typing import Any

import pytest

from icm_api.config import ProviderConfig, load_config
from icm_api.errors import CacheError, CapabilityError
from icm_api.providers.synthetic import Synthetic, SyntheticOptions
from icm_api.run.compose import open_client
from icm_api.run.probe import probe_host
from icm_api.run.probe_record import Check, ProbeRecord, find_record, refuse_disproved, save_record
from icm_api.tasks.labels import labels_from_names
from tests.unit.testing.toy import complete

HOST = Synthetic()
SOUND = ProbeRecord(
    provider="synthetic",
    model="m",
    identity=dict(HOST.identity),
    labels=("False", "True"),
    verdict="usable",
    checks=(Check("log-probs", "ok", "20 candidates listed"),),
    requests=9,
    day="2026-11-22",
    tool_version="0.1.0",
)


def disproved(name: str = "prompt log-probs") -> ProbeRecord:
    return replace(SOUND, checks=(*SOUND.checks, Check(name, "fail", "they are of the next place", "leave out --echo")))


def test_a_record_reads_back_as_it_was_saved(tmp_path):
    save_record(tmp_path, HOST, disproved())
    assert find_record(tmp_path, HOST) == disproved()


def test_only_its_owner_may_read_a_record(tmp_path):
    path = save_record(tmp_path, HOST, SOUND)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_folder_that_cannot_be_written_is_a_cache_error(tmp_path):
    (tmp_path / "probes").write_text("in the way")
    with pytest.raises(CacheError, match="probes"):
        save_record(tmp_path, HOST, SOUND)


def test_a_record_that_cannot_be_written_is_a_cache_error(tmp_path):
    path = save_record(tmp_path, HOST, SOUND)
    path.unlink()
    path.mkdir()
    (path / "in the way").touch()
    with pytest.raises(CacheError, match="cannot be written"):
        save_record(tmp_path, HOST, SOUND)


def test_a_sound_record_or_none_stops_nobody(tmp_path):
    refuse_disproved(tmp_path, HOST)
    save_record(tmp_path, HOST, SOUND)
    refuse_disproved(tmp_path, HOST)


def test_a_disproved_host_is_refused_by_the_name_of_the_check_and_what_to_use_instead(tmp_path):
    save_record(tmp_path, HOST, disproved())
    with pytest.raises(CapabilityError, match=r"2026-11-22 disproved 'prompt log-probs'.*leave out --echo"):
        refuse_disproved(tmp_path, HOST)


def test_what_failed_because_of_the_labels_stops_no_run_with_others(tmp_path):
    save_record(tmp_path, HOST, disproved("labels in reach"))
    refuse_disproved(tmp_path, HOST)


@pytest.mark.parametrize("other", [{"seed": 1}, {"echo": 0}])
def test_the_record_of_another_host_or_way_of_asking_does_not_apply(tmp_path, other):
    save_record(tmp_path, HOST, disproved())
    refuse_disproved(tmp_path, Synthetic(SyntheticOptions(**other)))


def test_a_new_probe_takes_the_place_of_the_old(tmp_path):
    save_record(tmp_path, HOST, disproved())
    save_record(tmp_path, HOST, SOUND)
    refuse_disproved(tmp_path, HOST)


@pytest.mark.parametrize("text", ["", "{}", '{"verdict": "usable"}', "\x00", "[" * 100_000])
def test_a_damaged_record_is_an_error_by_name(tmp_path, text):
    path = save_record(tmp_path, HOST, SOUND)
    path.write_text(text)
    with pytest.raises(CacheError, match=path.name):
        find_record(tmp_path, HOST)


async def test_every_client_is_refused_before_anything_is_asked(tmp_path):
    config = load_config(ProviderConfig, {"provider": "synthetic", "cache_dir": tmp_path}, {})
    record = await probe_host(config, {}, labels_from_names(("False", "True")))
    assert record.usable
    assert find_record(tmp_path, HOST) == record
    async with open_client(config, {}):
        pass
    save_record(tmp_path, HOST, disproved())
    with pytest.raises(CapabilityError, match="Nothing was asked"):
        async with open_client(config, {}):
            pass


def off_by_one(body: Any) -> Any:
    """An echo whose numbers are those of the next place, as of llama-cpp-python for models without BOS."""
    told = complete(body)
    if body.get("echo"):
        lists = told["choices"][0]["logprobs"]
        for name in ("token_logprobs", "top_logprobs"):
            lists[name] = [None, *lists[name][2:], lists[name][-1]]
    return told


async def test_a_run_with_a_wrong_echo_is_refused_and_one_without_it_is_not(tmp_path, server):
    server.answer("/v1/completions", off_by_one)
    base_url = f"{server.url}/v1"
    settings = {"provider": "openai-compatible", "base_url": base_url, "model": "m", "cache_dir": tmp_path}
    with_echo = load_config(ProviderConfig, {**settings, "echo": True}, {})
    without = load_config(ProviderConfig, settings, {})
    record = await probe_host(with_echo, {}, labels_from_names(("False", "True")))
    assert [check.name for check in record.failed] == ["prompt log-probs"]
    asked = len(server.asked)
    with pytest.raises(CapabilityError, match="--echo"):
        async with open_client(with_echo, {}):
            pass
    async with open_client(without, {}):
        pass
    assert len(server.asked) == asked


def test_a_record_holds_what_json_can_say(tmp_path):
    assert json.loads(save_record(tmp_path, HOST, SOUND).read_text())["identity"] == dict(HOST.identity)
