"""Asking a provider with care: cached, metered, retried and limited."""

from icm_api.client.meter import Limits, Snapshot
from icm_api.client.retry import RetryPolicy
from icm_api.client.stack import Client, build_client

__all__ = ["Client", "Limits", "RetryPolicy", "Snapshot", "build_client"]
