"""For authors of adapters: the checks that every provider of this package passes, to run on your own.

Needs pytest, which `icm_api` itself does not install (`pip install pytest`); no plug-in of pytest is needed. Subclass
`ProviderConformance` in your tests and say how to open your adapter:

    from icm_api.testing import ProviderConformance

    class TestMine(ProviderConformance):
        @pytest.fixture
        def open_provider(self, my_server):
            return lambda: Mine(base_url=my_server.url, api_key=self.key)

Each check opens an adapter of its own, in an event loop of its own, and closes it. Checks of what your adapter does not
offer (by its `capabilities`) are skipped. Fixtures and attributes that make it stricter:

- `host`: a server of yours that counts requests and fails on demand (`CountingHost`); without it the checks that one
  failure is one request, and that no error shows the key, are skipped.
- `key`: the API key that `open_provider` gives the adapter; it must show up nowhere.
- `demonstrations`, `queries`: texts that your model answers surely and differently, where the built-in ones do not do.
- `tolerance_nats`: how far two answers to one question may lie apart; 0 for a server that is exact.
- `finishes_labels`: text of a label begun and the rest of it, for adapters that go on inside a label.

Against a real host the suite costs some forty requests.
"""

import pytest

pytest.register_assert_rewrite("icm_api.testing.conformance")  # so that a check that fails shows its values

from icm_api.testing.conformance import CountingHost, ProviderConformance  # noqa: E402

__all__ = ["CountingHost", "ProviderConformance"]
