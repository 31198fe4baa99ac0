"""The report page."""

import json
import re

import pytest

from icm_api.report.course import course_of
from icm_api.report.page import ReportRow, Strained, charts, embedded, reliability_bins, render, table_data
from tests.unit.report.conftest import HOSTILE, journal, rows, summary


def test_the_page_says_what_was_found(make_report):
    page = render(make_report())
    for words in ("Reviews", "healthy", "66.7%", "20.0% to 94.0%", "1,234", "six answers said nothing", "unknown"):
        assert words in page


def test_nothing_is_loaded_from_elsewhere(make_report):
    page = render(make_report(rows=[row for row in rows() if row.text != HOSTILE]))
    assert not re.findall(r"(?:src|href)\s*=", page)
    assert "default-src &#39;none&#39;" in page


def test_signs_and_notes_stand_apart(make_report):
    sign = {"name": "surface", "level": "doubtful", "evidence": "length alone tells 97 % of these labels"}
    told = summary(verdict="doubtful", signs=[sign], warnings=["six answers said nothing", sign["evidence"]])
    page = render(make_report(summary=told))
    against, notes = page.split("<h2>Notes</h2>")
    assert sign["evidence"] in against
    assert sign["evidence"] not in notes
    assert "six answers" in notes.partition("</section>")[0]
    assert "What speaks against" not in render(make_report())


def test_hostile_text_stays_text(make_report):
    page = render(make_report(title=HOSTILE, summary=summary(warnings=[HOSTILE], label_shares={HOSTILE: 1.0})))
    assert "<img" not in page
    assert page.count("<script") == 2  # the data and our own
    assert page.count("</script>") == 2


@pytest.mark.parametrize("text", ["</script>", "<!--<script>", "\u2028", "&amp;", "\x00\ud7ff", '"'])
def test_embedded_data_read_back_as_they_were_and_close_nothing(text):
    found = embedded({"text": text})
    assert json.loads(str(found)) == {"text": text}
    assert not set("<>&\u2028") & set(str(found))


UUID = "0f8fad5b-d9cb-469f-a165-{:012}".format


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("r{}", "Ünïcödé wörds " * 40, None),
        ("r{}", "<>&\u2028" * 200, None),
        (UUID("{}"), "<p>&amp;<b></b></p>" * 3, f"asymmetric({UUID(1)}, {UUID(2)}) from pairs.jsonl, line {{}}"),
        ("<" * 300 + "{}", "\x00" * 300, "<" * 3_000 + "{}"),
    ],
    ids=["words", "markup", "long ids and rules", "all at once"],
)
def test_ten_thousand_examples_stay_under_two_megabytes_and_what_is_cut_is_said(make_report, name, text, rule):
    many = [
        ReportRow(name.format(i), text, "positive", 0.5, "negative", rule and rule.format(i)) for i in range(10_000)
    ]
    page = render(make_report(rows=many, journal=()))
    assert 1_400_000 < len(page.encode()) < 2_000_000
    assert re.search(r"the table holds the first \d+ characters of each text and rule", page)


def test_what_is_short_is_not_cut_and_nothing_is_said_of_it(make_report):
    table = table_data(rows())
    assert table["text"] == [row.text for row in rows()]
    assert table["cut"] == {"text": None, "id": None}
    assert "To keep the page small" not in render(make_report())


def test_a_long_text_is_cut_at_its_end_and_a_long_id_in_its_middle():
    (text,), (name,) = (table_data([ReportRow("a" * 3_000 + "z", "b" * 3_000, None, None)])[k] for k in ("text", "id"))
    assert (len(text), text[-2:]) == (2_000, "b…")
    assert (len(name), name[0], name[-1], "…" in name) == (2_000, "a", "z", True)


def test_ids_of_usual_length_stay_whole_when_texts_are_cut():
    many = [ReportRow(UUID(i), "<" * 500, None, None) for i in range(10_000)]
    table = table_data(many)
    assert (table["id"], table["cut"]["id"]) == ([row.id for row in many], None)


def test_a_rule_that_decides_many_labels_is_sent_once():
    table = table_data([ReportRow(f"r{i}", "text", "yes", 0.5, forced_by=f"rule {i % 2}") for i in range(4)])
    assert table["rules"] == ["rule 0", "rule 1"]
    assert table["forced"] == {0: 0, 1: 1, 2: 0, 3: 1}


def test_bins_count_only_examples_with_gold():
    bins = reliability_bins([*rows(), ReportRow("r4", "no gold", "positive", 0.9)])
    assert [(round(confidence, 2), right, count) for confidence, right, count in bins] == [
        (0.52, 0.0, 1),
        (0.71, 1.0, 1),
        (0.98, 1.0, 1),
    ]


def test_each_restart_has_a_course_of_its_own_that_begins_at_the_warm_up():
    course = course_of(journal(), {"r1": "positive", "r2": "negative", "r3": "negative"})
    assert course.x_label == "pass"
    assert {line.name: line.points for line in course.charts["accuracy"]} == {
        "restart 1": [(1.0, 1.0), (2.0, 2 / 3)],
        "restart 2": [(1.0, 0.5)],
    }


def test_without_gold_there_is_no_accuracy_to_draw(make_report):
    nameless = [ReportRow(row.id, row.text, row.label, row.confidence) for row in rows()]
    drawn = charts(make_report(rows=nameless))
    assert "accuracy" not in drawn
    assert "reliability" not in drawn
    assert "information" in drawn


def test_steps_of_a_search_without_passes_are_drawn_by_step():
    lines = [{"step": k, "changed": ["r1"], "labels": ["yes"], "utility": -float(k)} for k in range(2_000)]
    course = course_of(lines, {"r1": "yes"})
    assert course.x_label == "step"
    assert len(course.charts["utility"][0].points) <= 401
    assert course.charts["utility"][0].points[-1] == (1999.0, -1999.0)


def test_other_runs_stand_beside_it(make_report):
    other = summary(run_id="20260102-000000-beef", method="zero-shot")
    assert "20260102-000000-beef" in render(make_report(others=[other]))


def test_a_report_without_gold_or_labels_can_be_drawn(make_report):
    empty = [ReportRow("r1", "text", None, None)]
    page = render(
        make_report(rows=empty, journal=(), summary=summary(accuracy=None, accuracy_low=None, accuracy_high=None))
    )
    assert "gold labels" not in page


def test_labels_that_were_not_given_or_came_from_a_person_are_not_judged():
    unsure = ReportRow("r4", "Perhaps", None, 0.55, "positive")
    pinned = ReportRow("r5", "Said so", "positive", 0.55, "negative", pinned=True)
    assert reliability_bins([*rows(), unsure, pinned]) == reliability_bins(rows())


def test_an_example_without_a_label_is_said_to_have_none_and_is_not_wrong(make_report):
    page = render(make_report(rows=[ReportRow("r4", "Perhaps", None, 0.55, "positive")]))
    assert '<span class="label">no label</span>' in page
    assert 'class="wrong"' not in page


def test_labels_that_were_held_back_are_counted_where_they_could_mislead(make_report):
    page = render(make_report(summary=summary(labelled=1, abstained=2)))
    assert "examples labelled, 2 left unlabelled as too unsure" in page
    assert "<h2>Shares of the labels given</h2>" in page
    assert "unsure" not in render(make_report())


def test_the_shares_that_would_fit_the_scores_stand_beside_those_given_where_they_are_known(make_report):
    assert "would fit the scores" not in render(make_report())
    ranges = {"negative": (0.03, 0.5), "positive": (0.5, 0.97)}
    page = render(make_report(summary=summary(share_ranges=ranges)))
    assert "<th>would fit the scores</th>" in page
    assert "<td>3.0% to 50.0%</td>" in page
    assert "<td>50.0% to 97.0%</td>" in page


def test_what_gold_says_stands_under_the_verdict(make_report):
    page = render(make_report(summary=summary(against_gold="gold disagrees with these labels: 20.0% agree")))
    assert "The verdict is made without gold, but gold disagrees with these labels" in page.partition("</header>")[0]
    assert "made without gold, but" not in render(make_report())


@pytest.mark.parametrize(("accuracy", "said"), [(0.99, True), (0.9, False), (None, False)])
def test_a_zero_shot_run_beside_it_that_is_clearly_better_is_told(make_report, accuracy, said):
    other = summary(
        run_id="beside", method="zero-shot", accuracy=accuracy, accuracy_low=accuracy, accuracy_high=accuracy
    )
    page = render(make_report(others=[other]))
    assert ("zero-shot (run beside) would agree with 99.0%" in page) == said


def test_long_texts_end_at_a_word_and_say_that_they_go_on(make_report):
    page = render(make_report(rows=[ReportRow("r1", "wonderful " * 100, "positive", 0.9)]))
    assert "wonderful […]" in page


def test_sections_with_nothing_in_them_are_left_out(make_report):
    empty = summary(labelled=0, accuracy=None, accuracy_low=None, accuracy_high=None)
    page = render(make_report(rows=[ReportRow("r1", "text", None, None)], journal=(), summary=empty))
    for heading in ("How it went", "Most certain", "Shares of the labels", "Decided by a rule"):
        assert heading not in page


def test_only_the_first_labels_that_a_rule_decided_are_listed_and_how_many_there_are(make_report):
    many = [ReportRow(f"r{i}", f"text {i}", "positive" if i else None, 0.5, forced_by="a rule") for i in range(20)]
    page = render(make_report(rows=many))
    assert "The first 8 of 19; the table below shows all." in page


def test_nothing_is_drawn_of_rules_that_were_never_broken():
    lines = [{"step": k, "changed": ["r1"], "labels": ["yes"], "utility": 1.0, "violations": 0} for k in range(3)]
    assert set(course_of(lines, {}).charts) == {"utility", "changes so far"}


def test_changes_of_a_search_by_steps_are_summed():
    lines = [{"step": k, "changed": ["r1"] * (k % 2), "labels": ["yes"] * (k % 2)} for k in range(5)]
    (line,) = course_of(lines, {}).charts["changes so far"]
    assert line.points == [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2)]


def test_strained_components_are_shown_the_most_strained_first(make_report):
    calm = Strained([0, 2], ["equivalent(r1, r3)"], forced=0, broken=1)
    tense = Strained([0, 1], ["asymmetric(r1, r2)", "implies(r1, r2)"], forced=1, broken=1)
    section = render(make_report(strained=[calm, tense])).partition("rules strain against the model</h2>")[2]
    assert section.index("2 examples, 2 rules") < section.index("2 examples, 1 rule<")
    assert "1 label forced, 1 rule broken" in section
    assert "asymmetric(r1, r2); implies(r1, r2)<" in section
    assert section.index('data-go="1">r2</button> negative (forced)') < section.index(
        'data-go="0">r1</button> positive'
    )
    assert "most strained of" not in section
    assert "strain against" not in render(make_report())


def test_only_the_first_of_many_strained_components_members_and_rules_are_named(make_report):
    many = [ReportRow(f"r{i}", "text", "yes", 0.5) for i in range(10)]
    part = Strained(range(10), [f"rule {k}" for k in range(9)], forced=1, broken=0)
    page = render(make_report(rows=many, strained=[part] * 20))
    assert "The 8 most strained of 20 groups" in page
    assert page.count('data-go="5"') == 8
    assert 'data-go="6"' not in page
    assert " and 4 more</span>" in page
    assert "rule 5; and 3 more</span>" in page


def test_what_was_checked_is_a_table_where_the_run_says_it(make_report):
    checks = [
        {"name": "collapse", "level": "fine", "figure": "48.4% have the commonest label"},
        {"name": "restarts", "level": "not measured", "figure": "a single <restart>"},
    ]
    page = render(make_report(summary=summary(checks=checks)))
    section = page.partition("<h2>What was checked</h2>")[2].partition("</section>")[0]
    assert '<th scope="row">collapse</th><td class="fine">fine</td><td>48.4% have the commonest label</td>' in section
    assert '<td class="not-measured">not measured</td><td>a single &lt;restart&gt;</td>' in section
    for older in ({}, {"checks": None}, {"checks": ()}):
        assert "What was checked" not in render(make_report(summary=summary(**older)))


def test_how_far_confidences_are_off_stands_with_the_accuracy_where_it_is_known(make_report):
    assert "20.0% to 94.0%); confidences are off by 7.1%" in render(
        make_report(summary=summary(calibration_error=0.071))
    )
    for unknown in ({}, {"calibration_error": None}):
        assert "confidences are off" not in render(make_report(summary=summary(**unknown)))


def test_the_share_of_cached_prompt_tokens_is_told(make_report):
    page = render(make_report(summary=summary(prompt_tokens=2_000, cached_tokens=1_500)))
    assert "1,500 of them (75.0%) cached by the host" in page
    for unknown in ({"cached_tokens": None}, {"prompt_tokens": None, "cached_tokens": None}, {"cached_tokens": 0}):
        assert "cached by the host" not in render(make_report(summary=summary(**unknown)))
