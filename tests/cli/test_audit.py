"""`icm-api audit`: a person's answers about a run's labels."""

import csv
import json
from pathlib import Path

import pytest

SETTINGS = ("--task", "classify", "--labels", "negative,positive", "--provider", "synthetic", "--run-dir", "run")


@pytest.fixture
def run(icm, write):
    """A finished run over sixty examples, one of which a spreadsheet would take for a formula."""
    write("data.jsonl", [{"id": f"={i}" if i == 7 else f"r{i}", "text": f"=SUM({i})"} for i in range(60)])
    assert icm("run", "data.jsonl", *SETTINGS).code == 0
    return {row["id"]: row for row in map(json.loads, Path("run/labels.jsonl").read_text().splitlines())}


def sheet(path="sheet.csv"):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def fill(rows, label_of, path="filled.csv"):
    with Path(path).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "label": label_of(row["id"])} for row in rows)
    return path


@pytest.fixture
def at_terminal(monkeypatch):
    """`at_terminal("12s1q")`: a person who presses these keys."""

    def press(keys):
        left = iter(keys)
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("click.getchar", lambda: next(left))

    return press


def test_a_sheet_shows_texts_and_never_what_the_model_said(icm, run):
    assert icm("audit", "run", "--n", "20", "--csv", "sheet.csv").code == 0
    rows = sheet()
    assert len(rows) == 20
    assert set(rows[0]) == {"id", "label", "text", "labels"}
    assert {row["label"] for row in rows} == {""}
    assert {row["labels"] for row in rows} == {"negative | positive"}


def test_no_cell_of_the_sheet_can_run_as_a_formula(icm, run):
    icm("audit", "run", "--n", "60", "--csv", "sheet.csv")
    cells = [cell for row in sheet() for cell in row.values()]
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells)
    assert any(cell == "'=7" for cell in cells)


def test_a_sheet_filled_in_gives_the_accuracy(icm, run):
    icm("audit", "run", "--n", "60", "--csv", "sheet.csv")
    filled = fill(sheet(), lambda name: run[name.lstrip("'")]["label"])
    done = icm("audit", "run", "--answers", filled, "--json")
    assert done.code == 0
    assert done.json["whole"]["accuracy"] == pytest.approx(1.0)
    assert (done.json["whole"]["answered"], done.json["polarity"]) == (60, "right")
    assert json.loads(Path("run/audit.json").read_text()) == done.json
    kept = [json.loads(line) for line in Path("run/answers.jsonl").read_text().splitlines()]
    assert {row["id"]: row["label"] for row in kept} == {name: row["label"] for name, row in run.items()}


def test_labels_the_wrong_way_round_are_told(icm, run):
    icm("audit", "run", "--n", "30", "--csv", "sheet.csv")
    other = {"negative": "positive", "positive": "negative"}
    filled = fill(sheet(), lambda name: other[run[name.lstrip("'")]["label"]])
    done = icm("audit", "run", "--answers", filled)
    assert "polarity: turned round" in done.out
    assert "no confidence from which on 90% of the labels are right" in done.out


def test_all_problems_of_a_sheet_are_told_at_once(icm, write, run):
    write("bad.csv", "id,label\nr1,positive\nr1,negative\nnobody,positive\nr2,perhaps\nr3,\n")
    done = icm("audit", "run", "--answers", "bad.csv")
    assert done.code == 2
    assert "bad.csv:3: id 'r1' has a label already" in done.err
    assert "bad.csv:4: unknown id 'nobody'" in done.err
    assert "bad.csv:5: unknown label 'perhaps'; labels: negative, positive" in done.err


def test_an_empty_sheet_tells_nothing_and_says_so(icm, run):
    icm("audit", "run", "--csv", "sheet.csv")
    done = icm("audit", "run", "--answers", "sheet.csv")
    assert (done.code, "nothing can be told" in done.err) == (2, True)


def test_a_sheet_is_not_written_over(icm, run):
    icm("audit", "run", "--csv", "sheet.csv")
    before = Path("sheet.csv").read_bytes()
    done = icm("audit", "run", "--n", "5", "--csv", "sheet.csv")
    assert (done.code, Path("sheet.csv").read_bytes()) == (2, before)


def test_one_key_answers_and_others_skip_or_stop(icm, run, at_terminal):
    at_terminal("1?2s1q")
    done = icm("audit", "run", "--n", "20", "--json")
    assert (done.code, done.json["whole"]["answered"]) == (0, 3)
    assert "1 of 20" in done.err
    assert "[1] negative  [2] positive  [s] skip  [q] stop" in done.err
    assert "press one of" in done.err


def test_without_a_terminal_a_sheet_is_offered(icm, run):
    done = icm("audit", "run")
    assert (done.code, "use --csv FILE, then --answers FILE" in done.err) == (2, True)


def test_answers_of_earlier_audits_count_and_are_not_asked_for_again(icm, run, at_terminal):
    at_terminal("12q")
    icm("audit", "run", "--n", "20")
    first = Path("run/answers.jsonl").read_text().splitlines()
    at_terminal("1q")
    done = icm("audit", "run", "--n", "20", "--json")
    assert ("1 of 20" in done.err, done.json["whole"]["answered"]) == (True, 3)
    assert set(first) < set(Path("run/answers.jsonl").read_text().splitlines())


def test_a_second_sheet_asks_about_others(icm, run):
    icm("audit", "run", "--n", "20", "--csv", "first.csv")
    first = {row["id"] for row in sheet("first.csv")}
    answered = [row for row in sheet("first.csv") if row["id"] != sheet("first.csv")[0]["id"]]
    icm("audit", "run", "--answers", fill(answered, lambda _: "positive"))
    assert icm("audit", "run", "--n", "20", "--csv", "second.csv").code == 0
    second = {row["id"] for row in sheet("second.csv")}
    assert len(second) == 20
    assert second.isdisjoint(row["id"] for row in answered)
    assert len(second & first) <= 1, "only the one that was left out"


def test_the_advice_to_answer_more_can_be_followed_at_the_terminal(icm, run, at_terminal):
    at_terminal("12121212121s")
    first = icm("audit", "run", "--n", "12")
    assert "polarity: unclear; answer more" in first.out
    at_terminal("1" * 12)
    second = icm("audit", "run", "--n", "12", "--json")
    assert ("12 of 12" in second.err, second.json["whole"]["answered"]) == (True, 23)


def test_nobody_left_to_ask_is_said_and_the_figures_are_told_again(icm, run, at_terminal):
    at_terminal("1" * 60)
    before = icm("audit", "run", "--n", "60", "--json")
    assert before.json["whole"]["answered"] == 60
    for more in ((), ("--csv", "sheet.csv")):
        again = icm("audit", "run", "--json", *more)
        assert "every label of the run has a person's answer: none is left to ask about" in again.err
        assert (again.code, again.json) == (0, before.json)
    assert not Path("sheet.csv").exists()


def test_an_answer_that_is_corrected_in_a_sheet_replaces_the_old_one(icm, write, run):
    for label in ("negative", "positive"):
        write("sheet.csv", f"id,label\nr1,{label}\n")
        assert icm("audit", "run", "--answers", "sheet.csv").code == 0
    assert Path("run/answers.jsonl").read_text() == '{"id": "r1", "label": "positive"}\n'


def test_ctrl_c_keeps_what_was_answered(icm, run, monkeypatch):
    def press():
        if not next(keys):
            raise KeyboardInterrupt
        return "1"

    keys = iter([True, True, False])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.getchar", press)
    done = icm("audit", "run", "--json")
    assert (done.code, done.json["whole"]["answered"]) == (0, 2)


def test_labels_that_a_person_gave_are_not_asked_about(icm, write, run):
    pinned = [name for name in run if name != "=7"][:20]
    write("pins.jsonl", [{"id": name, "label": "positive"} for name in pinned])
    settings = [*SETTINGS[:-1], "pinned", "--pin", "pins.jsonl"]
    assert icm("run", "data.jsonl", *settings).code == 0
    icm("audit", "pinned", "--n", "60", "--csv", "sheet.csv")
    assert {row["id"] for row in sheet()}.isdisjoint(pinned)
    done = icm("audit", "pinned", "--answers", fill(sheet(), lambda _: "positive"), "--json")
    assert done.json["whole"]["labels"] == len(sheet())


def test_a_sheet_has_the_texts_themselves_and_not_the_prompt(icm, run):
    icm("audit", "run", "--n", "60", "--csv", "sheet.csv")
    assert {row["text"] for row in sheet()} == {f"'=SUM({i})" for i in range(60)}


def test_of_several_fields_a_person_sees_which_is_which_and_what_is_claimed(icm, write):
    pair = ("one", "two")
    write(
        "pairs.jsonl",
        [{"id": i, "prompt": f"p{i}", "response_a": pair[i % 2], "response_b": pair[1 - i % 2]} for i in range(20)],
    )
    assert icm("run", "pairs.jsonl", "--task", "preference", "--provider", "synthetic", "--run-dir", "run").code == 0
    icm("audit", "run", "--n", "1", "--csv", "sheet.csv")
    prompt, *responses, claim = sheet()[0]["text"].splitlines()
    assert prompt.startswith("Prompt: p")
    assert {line[:11] for line in responses} == {"Response A:", "Response B:"}
    assert claim == "Claim: Response A is better than Response B."
