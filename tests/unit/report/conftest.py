"""A small report, and one with hostile texts."""

import pytest

from icm_api.report.page import Report, ReportRow

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


def summary(**changes):
    return {
        "run_id": "20260101-000000-abcd",
        "method": "sweep",
        "provider": "synthetic",
        "model": "in-context-learner",
        "examples": 3,
        "labelled": 3,
        "abstained": 0,
        "accuracy": 2 / 3,
        "accuracy_low": 0.2,
        "accuracy_high": 0.94,
        "accuracy_n": 3,
        "used_gold": False,
        "violations": 0,
        "forced": 1,
        "requests": 9,
        "retries": 0,
        "cache_hits": 4,
        "prompt_tokens": 1234,
        "cached_tokens": None,
        "cost_usd": None,
        "price_source": None,
        "label_shares": {"negative": 1 / 3, "positive": 2 / 3},
        "verdict": "healthy",
        "against_gold": None,
        "signs": [],
        "warnings": ["six answers said nothing"],
    } | changes


def rows():
    return [
        ReportRow("r1", "A fine day", "positive", 0.98, "positive"),
        ReportRow("r2", HOSTILE, "negative", 0.71, "negative", forced_by="asymmetric(r1, r2)"),
        ReportRow("r3", "So so", "positive", 0.52, "negative"),
    ]


def journal():
    return [
        {
            "step": 0,
            "stage": "warm-up",
            "restart": 0,
            "pass": 0,
            "changed": ["r1", "r2"],
            "labels": ["positive", "positive"],
        },
        {
            "step": 1,
            "stage": "restart",
            "restart": 1,
            "pass": 1,
            "changed": ["r2"],
            "labels": ["negative"],
            "information_nats": 0.2,
        },
        {
            "step": 2,
            "stage": "restart",
            "restart": 1,
            "pass": 2,
            "changed": ["r3"],
            "labels": ["positive"],
            "information_nats": 0.3,
        },
        {"step": 3, "stage": "restart", "restart": 2, "pass": 1, "changed": [], "labels": [], "information_nats": 0.1},
    ]


@pytest.fixture
def make_report():
    def make(**changes):
        return Report(**({"title": "Reviews", "summary": summary(), "rows": rows(), "journal": journal()} | changes))

    return make
