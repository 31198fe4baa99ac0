"""Every host as it once answered: what `make record PROVIDER=...` kept, asked again with the network shut."""

import pytest

from tests.recorded.recording import HOSTED, HOSTS, play


@pytest.mark.block_network
@pytest.mark.parametrize("provider", HOSTED)
async def test_a_host_is_asked_and_read_as_when_it_was_recorded(provider):
    file = HOSTS / f"{provider}.yaml"
    if not file.exists():
        pytest.skip(f"never recorded: with a key, `make record PROVIDER={provider} MODEL=...`")
    await play(file)


def test_every_recording_is_of_a_known_provider():
    assert {file.name for file in HOSTS.iterdir()} <= {f"{provider}.yaml" for provider in HOSTED}
