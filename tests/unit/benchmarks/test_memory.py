from benchmarks.memory import measure, pairs


def test_a_run_over_a_few_thousand_pairs_stays_small():
    measured = measure(1500, cache=True)
    assert measured.labelled == 1500
    assert measured.resident_mb < 180
    assert 0 < measured.provider_s < measured.total_s


def test_pairs_are_shown_in_both_orders():
    first, second = list(pairs(2))
    assert '"id": "0a"' in first
    assert '"id": "0b"' in second
    assert first != second
