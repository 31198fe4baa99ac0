"""What is kept in cassettes/."""

from tests.recorded.recording import CASSETTES, SECRET

RECORDINGS = sorted(CASSETTES.glob("*/*.yaml"))


def test_no_cassette_holds_a_key_or_a_home_directory():
    assert RECORDINGS
    assert [path.name for path in RECORDINGS if SECRET.search(path.read_text())] == []


def test_cassettes_stay_small():
    assert [path.name for path in RECORDINGS if path.stat().st_size > 200_000] == []


def test_every_folder_of_cassettes_is_described():
    described = (CASSETTES / "README.md").read_text()
    assert [path.parent.name for path in RECORDINGS if f"`{path.parent.name}/`" not in described] == []
