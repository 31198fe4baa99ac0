from pathlib import Path

import pytest

from icm_api.errors import ConfigError
from icm_api.local import session
from icm_api.local.models import DEFAULT_MODEL
from icm_api.local.session import model_file, serve_until_stopped


@pytest.fixture
def fetched(monkeypatch) -> list[str]:
    names: list[str] = []

    def fetch_model(name: str, *, cache_dir: Path, progress: object) -> Path:
        names.append(name)
        return cache_dir / f"{name}.gguf"

    monkeypatch.setattr(session, "fetch_model", fetch_model)
    return names


def test_no_name_means_the_default_model(fetched, tmp_path):
    assert model_file(None, cache_dir=tmp_path) == tmp_path / f"{DEFAULT_MODEL}.gguf"
    assert fetched == [DEFAULT_MODEL]


def test_a_name_is_fetched_and_a_file_of_ones_own_is_not(fetched, tmp_path):
    model_file("gemma3-270m", cache_dir=tmp_path)
    assert model_file("~/mine.gguf", cache_dir=tmp_path) == Path.home() / "mine.gguf"
    assert fetched == ["gemma3-270m"]


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_port_out_of_range_is_refused_before_anything_is_fetched(fetched, tmp_path, port):
    with pytest.raises(ConfigError, match=f"not {port}"):
        serve_until_stopped(None, cache_dir=tmp_path, announce=print, port=port)
    assert fetched == []
