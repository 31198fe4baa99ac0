"""`icm-api report` and `compare`, the page after a run, and verdicts as exit codes."""

import json
from pathlib import Path

import resvg_py

RUN = ("--task", "classify", "--labels", "negative,positive", "--provider", "synthetic", "--gold-column", "gold")


def rows(file, n=24, **changes):
    lines = [
        {"id": f"r{i}", "text": f"text {i} of some length", "gold": ["negative", "positive"][i % 2]} | changes
        for i in range(n)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(file)


def test_a_run_leaves_a_page_unless_told_not_to(icm, tmp_path):
    data = rows(tmp_path / "data.jsonl")
    done = icm("run", data, *RUN, "--run-dir", str(tmp_path / "one"))
    page = (tmp_path / "one" / "report.html").read_text(encoding="utf-8")
    assert done.code == 0
    assert "report.html" in done.err
    assert "text 3 of some length" in page
    icm("run", data, *RUN, "--run-dir", str(tmp_path / "two"), "--no-report")
    assert not (tmp_path / "two" / "report.html").exists()


def test_a_page_can_be_made_later_with_another_run_beside_it_and_charts_as_files(icm, tmp_path):
    data = rows(tmp_path / "data.jsonl")
    icm("run", data, *RUN, "--run-dir", str(tmp_path / "one"), "--no-report")
    icm("run", data, *RUN, "--run-dir", str(tmp_path / "two"), "--method", "zero-shot", "--no-report")
    out, charts = tmp_path / "page.html", tmp_path / "charts"
    done = icm(
        "report", str(tmp_path / "one"), "--beside", str(tmp_path / "two"), "--out", str(out), "--charts", str(charts)
    )
    assert Path(done.out.strip()) == out
    assert "zero-shot" in out.read_text(encoding="utf-8")
    assert (charts / "accuracy.svg").read_text(encoding="utf-8").startswith("<svg xmlns")
    assert (charts / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert {file.stem for file in charts.glob("*.png")} == {file.stem for file in charts.glob("*.svg")}


def test_without_the_extra_charts_are_svg_and_the_way_to_png_is_told(icm, tmp_path, monkeypatch):
    icm("run", rows(tmp_path / "data.jsonl"), *RUN, "--run-dir", "run", "--no-report")
    monkeypatch.setattr("icm_api.report.png.can_draw", lambda: False)
    done = icm("report", "run", "--charts", "charts")
    assert (done.code, "pip install 'icm-api[png]'" in done.err) == (0, True)
    assert {file.suffix for file in Path("charts").iterdir()} == {".svg"}


def test_without_fonts_page_and_charts_as_svg_are_written_and_a_notice_says_so(icm, tmp_path, monkeypatch):
    icm("run", rows(tmp_path / "data.jsonl"), *RUN, "--run-dir", "run", "--no-report")
    drawn = resvg_py.svg_to_bytes
    monkeypatch.setattr(resvg_py, "svg_to_bytes", lambda **options: drawn(**{**options, "skip_system_fonts": True}))
    done = icm("report", "run", "--charts", "charts")
    assert (done.code, "notice: the charts in charts are SVG only: PNG: this system has no font" in done.err) == (
        0,
        True,
    )
    assert Path(done.out.strip()).exists()
    assert {file.suffix for file in Path("charts").iterdir()} == {".svg"}


def test_the_help_says_what_png_needs(icm):
    assert "SVG (and PNG with the extra png)" in " ".join(icm("report", "--help").out.split())


def test_runs_are_compared_label_by_label(icm, tmp_path):
    data = rows(tmp_path / "data.jsonl")
    for name, seed in (("one", "0"), ("two", "0"), ("three", "5")):
        method = "random-few-shot" if name == "three" else "sweep"
        icm("run", data, *RUN, "--run-dir", str(tmp_path / name), "--seed", seed, "--method", method, "--no-report")
    done = icm("compare", str(tmp_path / "one"), str(tmp_path / "two"), str(tmp_path / "three"), "--json")
    first, same, other = json.loads(done.out)["runs"]
    assert (first["kappa"], same["equal"]) == (1.0, "24 of 24")
    assert other["method"] == "random-few-shot"
    shown = icm("compare", str(tmp_path / "one"), str(tmp_path / "three"))
    assert "kappa" in shown.out


def test_runs_over_other_data_are_not_compared(icm, tmp_path):
    one = rows(tmp_path / "one.jsonl")
    two = rows(tmp_path / "two.jsonl", n=22)
    icm("run", one, *RUN, "--run-dir", str(tmp_path / "a"), "--no-report")
    icm("run", two, *RUN, "--run-dir", str(tmp_path / "b"), "--no-report")
    done = icm("compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert done.code == 2
    assert "not those of" in done.err


def test_a_run_over_other_data_does_not_stand_beside_another(icm, tmp_path):
    icm("run", rows(tmp_path / "one.jsonl"), *RUN, "--run-dir", "one", "--no-report")
    icm("run", rows(tmp_path / "fewer.jsonl", n=22), *RUN, "--run-dir", "fewer", "--no-report")
    icm("run", rows(tmp_path / "texts.jsonl", text="another"), *RUN, "--run-dir", "texts", "--no-report")
    for other in ("fewer", "texts"):  # the latter has the same ids
        done = icm("report", "one", "--beside", other)
        assert (done.code, Path("one/report.html").exists()) == (2, False)
        assert f"{other}: its examples are not those of " in done.err


def test_a_page_shows_the_components_in_which_rules_strain_against_the_model(icm, write):
    pairs = [
        {"id": f"p{i}{side}", "prompt": f"Question {i}?", "response_a": first, "response_b": second}
        for i in range(12)
        for side, first, second in (("a", f"=good {i}", f"bad {i}"), ("b", f"bad {i}", f"=good {i}"))
    ]
    preference = ("--task", "preference", "--provider", "synthetic", "--restarts", "1")
    icm("run", write("pairs.jsonl", pairs), *preference, "--run-dir", "run")
    labels = map(json.loads, Path("run/labels.jsonl").read_text(encoding="utf-8").splitlines())
    forced = [row["id"] for row in labels if row["forced_by"]]
    section = Path("run/report.html").read_text(encoding="utf-8").partition("rules strain against the model</h2>")[2]
    section = section.partition("</section>")[0]
    assert 0 < len(forced) <= 8
    assert section.count("2 examples, 1 rule</span>") == len({name[:-1] for name in forced})
    assert all(f">{name}</button>" in section for name in forced)


def test_a_verdict_can_fail_a_script_and_the_labels_are_there(icm, tmp_path):
    data = rows(tmp_path / "data.jsonl")
    same = ("--provider-option", "bias=30", "--method", "zero-shot")  # one label for all
    done = icm("run", data, *RUN, *same, "--run-dir", str(tmp_path / "run"), "--fail-on", "failed", "--json")
    assert done.code == 5
    assert done.json["verdict"] == "failed"
    assert "verdict on the labels is failed" in done.err
    assert (tmp_path / "run" / "labels.jsonl").exists()


def test_an_id_cannot_steer_the_terminal(icm, write):
    write("odd.jsonl", [{"id": f"\x1b[2J{i}", "text": f"text {i}"} for i in range(24)])
    for name, prior in (("one", "a=0.1"), ("two", "a=0.9")):
        settings = ("--task", "classify", "--labels", "a,b", "--provider", "synthetic", "--class-prior", prior)
        assert icm("run", "odd.jsonl", *settings, "--run-dir", name, "--no-report").code == 0
    done = icm("compare", "one", "two")
    assert ("[2J" in done.out, "\x1b" in done.out) == (True, False)


def test_gold_that_disagrees_is_told_beside_the_verdict_and_does_not_change_it(icm, tmp_path):
    data = rows(tmp_path / "data.jsonl", n=60, gold="positive")
    done = icm("run", data, *RUN, "--run-dir", "run", "--json")
    told = done.json["against_gold"]
    assert told.startswith("gold disagrees with these labels: ")
    assert told.endswith("'positive' for all would agree with 100.0%")
    assert f"verdict: {done.json['verdict']} (made without gold)\nbut {told}" in done.err
    assert "The verdict is made without gold, but gold disagrees" in Path("run/report.html").read_text(encoding="utf-8")
    blind = icm("run", data, *RUN[:-2], "--run-dir", "blind", "--json").json
    assert (blind["verdict"], blind["against_gold"]) == (done.json["verdict"], None)


def test_a_run_that_was_stopped_is_doubtful_and_healthy_once_it_has_ended(icm, tmp_path):
    data = rows(tmp_path / "data.jsonl", n=60)
    stopped = icm("run", data, *RUN[:-2], "--run-dir", "run", "--max-requests", "35", "--json")
    assert (stopped.code, stopped.json["verdict"]) == (3, "doubtful")
    assert "unfinished" in {sign["name"] for sign in stopped.json["signs"]}
    ended = icm("resume", "run", "--max-requests", "1000", "--json").json
    assert "unfinished" not in {sign["name"] for sign in ended["signs"]}


def test_the_shares_at_the_end_are_of_the_labels_given(icm, tmp_path):
    data = rows(tmp_path / "data.jsonl", n=60)
    icm("run", data, *RUN, "--run-dir", "all")
    sure = sorted(json.loads(line)["confidence"] for line in Path("all/labels.jsonl").read_text().splitlines())
    done = icm("run", data, *RUN, "--run-dir", "run", "--abstain-below", str(sure[20]), "--json")
    given = [json.loads(line)["label"] for line in Path("run/labels.jsonl").read_text().splitlines()]
    share = given.count("positive") / (60 - given.count(None))
    assert 0 < done.json["labelled"] < 60
    assert done.json["label_shares"]["positive"] == share
    assert f"left unlabelled as too unsure ({done.json['stop_reason']}" in done.err
    assert f": of those labelled negative {1 - share:.0%}, positive {share:.0%}" in done.err
