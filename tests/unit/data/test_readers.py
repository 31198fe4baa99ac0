import csv
import io
import json
import sys
from contextlib import suppress
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from icm_api.data.readers import Row, read_rows
from icm_api.errors import ConfigError, DataError


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_jsonl_rows_carry_their_physical_line_and_blank_lines_are_skipped(write):
    rows = list(read_rows(write("a.jsonl", '{"a": 1}\n\n  \n{"a": "é"}')))
    assert rows == [Row(1, {"a": 1}), Row(4, {"a": "é"})]


@pytest.mark.parametrize(("name", "content"), [("a.ndjson", '{"a": "x"}\n'), ("a.CSV", "a\nx\n")])
def test_a_byte_order_mark_is_tolerated(write, name, content):
    (row,) = read_rows(write(name, b"\xef\xbb\xbf" + content.encode()))
    assert row.values == {"a": "x"}


def test_a_csv_record_carries_the_line_where_it_starts(write):
    path = write("a.csv", 'id,text\r\n1,"two\r\nlines, ""quoted"""\r\n\r\n2,plain\r\n')
    assert list(read_rows(path)) == [
        Row(2, {"id": "1", "text": 'two\r\nlines, "quoted"'}),
        Row(5, {"id": "2", "text": "plain"}),
    ]


def test_rows_come_one_at_a_time_so_a_later_broken_line_does_not_hide_the_first(write):
    rows = read_rows(write("a.jsonl", '{"a": 1}\nbroken\n'))
    assert next(rows).values == {"a": 1}
    with pytest.raises(DataError, match=r"a\.jsonl:2: broken JSON at column 1"):
        next(rows)


@pytest.mark.parametrize(("format", "content"), [(None, '{"a": "x"}\n'), ("csv", "a\nx\n")])
def test_standard_input_is_jsonl_unless_csv_is_named(monkeypatch, format, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    (row,) = read_rows("-", format=format)
    assert row.values == {"a": "x"}


def test_a_named_format_beats_the_extension(write):
    (row,) = read_rows(write("a.txt", "a\nx\n"), format="csv")
    assert row.values == {"a": "x"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "a.jsonl: has no rows"),
        ("a.csv", "", "a.csv: has no rows"),
        ("a.csv", "id,text\n", "a.csv: has no rows"),
        ("a.jsonl", '{"a": 1}\n{"a": }\n', r"a.jsonl:2: broken JSON at column 7"),
        ("a.jsonl", "[1]\n", "a.jsonl:1: each line must be a JSON object, this one is an array"),
        ("a.jsonl", "null\n", "this one is null"),
        ("a.jsonl", '"x"\n', "this one is a string"),
        ("a.jsonl", "3.5\n", "this one is a number"),
        ("a.jsonl", '{"a": 1, "a": 2}\n', "a.jsonl:1: broken JSON: key 'a' stands twice"),
        ("a.jsonl", '{"a": NaN}\n', "a.jsonl:1: broken JSON: NaN is not JSON"),
        ("a.jsonl", "[" * 200_000, "a.jsonl:1: broken JSON: nested too deeply"),
        ("a.jsonl", '{"a": ' + "1" * 5000 + "}", "a.jsonl:1: broken JSON: Exceeds the limit"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', r"a.jsonl:2: not valid UTF-8 \(byte 8 of the line\)"),
        ("a.csv", b"a\n\xe9\n", "a.csv:2: not valid UTF-8"),
        ("a.jsonl", b'{"a": 1}\n\0\n', "a.jsonl:2: holds a NUL byte"),
        ("a.csv", b"a\nx\0\n", "a.csv:2: holds a NUL byte"),
        ("a.csv", "id,text\n1,a,b\n", "a.csv:2: has 3 cells, but the header has 2 columns"),
        ("a.csv", "id,text\n1,a\n2\n", "a.csv:3: has 1 cells, but the header has 2 columns"),
        ("a.csv", "id,text,id\n1,a,2\n", "a.csv:1: the header names a column twice: 'id'"),
        ("a.csv", 'id,text\n1,"open\n', "a.csv:2: broken CSV"),
        ("a.parquet", b"PAR1 not really", "a.parquet: not a readable parquet file"),
    ],
)
def test_a_bad_file_is_refused_by_file_and_line(write, name, content, message):
    with pytest.raises(DataError, match=message):
        list(read_rows(write(name, content)))


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl: no such file"):
        list(read_rows(tmp_path / "none.jsonl"))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=r"folder\.csv: cannot be opened: Is a directory"):
        list(read_rows(tmp_path / "folder.csv"))


def test_an_unknown_extension_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"a\.xlsx: .*'\.xlsx'; known: \.jsonl, \.ndjson, \.csv, \.parquet;"):
        read_rows("a.xlsx")


def test_an_unknown_format_names_the_known_ones():
    with pytest.raises(ConfigError, match="unknown format 'tsv'; known: jsonl, csv, parquet"):
        read_rows("a.tsv", format="tsv")  # type: ignore[arg-type]


def test_parquet_rows_are_numbered_from_one(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"id": [7, 8], "text": ["x", None]}), path)
    assert list(read_rows(path)) == [Row(1, {"id": 7, "text": "x"}), Row(2, {"id": 8, "text": None})]


def test_parquet_is_not_read_from_standard_input():
    with pytest.raises(ConfigError, match="parquet cannot be read from standard input"):
        list(read_rows("-", format="parquet"))


@pytest.mark.parametrize(
    ("source", "module", "extra"), [("a.parquet", "pyarrow", "parquet"), ("hf:owner/name", "datasets", "hf")]
)
def test_a_missing_optional_package_says_what_to_install(monkeypatch, source, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"pip install 'icm-api\[{extra}\]'"):
        list(read_rows(source))


@pytest.mark.parametrize(("source", "split"), [("hf:owner/name", "train"), ("hf:owner/name:test", "test")])
def test_the_hub_is_streamed_without_running_its_code(monkeypatch, source, split):
    calls = []

    def load_dataset(name, **options):
        calls.append((name, options))
        return iter([{"text": "x"}])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert list(read_rows(source)) == [Row(1, {"text": "x"})]
    assert calls == [("owner/name", {"split": split, "streaming": True})]


def test_a_hub_data_set_that_cannot_be_loaded_is_a_data_error(monkeypatch):
    def load_dataset(name, **options):
        raise FileNotFoundError("no data set of that name")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(DataError, match="hf:owner/name: cannot be loaded: no data set of that name"):
        list(read_rows("hf:owner/name"))
    with pytest.raises(ConfigError, match="write the name of the data set"):
        list(read_rows("hf:"))


FRAGMENTS = st.sampled_from(
    [b"{", b"}", b'"', b'"a"', b":", b",", b"\n", b"\r", b"\\u0000", b"1", b"\xff", b"\0", b"'"]
)


@pytest.mark.parametrize("extension", ["jsonl", "csv"])
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=60) | st.lists(FRAGMENTS, max_size=40).map(b"".join))
def test_whatever_the_bytes_only_data_errors_come_out(tmp_path, extension, content):
    path = tmp_path / f"fuzz.{extension}"
    path.write_bytes(content)
    with suppress(DataError):
        assert all(row.line >= 1 for row in read_rows(path))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(texts=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1))
def test_texts_come_back_from_jsonl_and_csv_as_they_were(tmp_path, texts):
    lines = "".join(json.dumps({"id": i, "text": text}, ensure_ascii=False) + "\n" for i, text in enumerate(texts))
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8", newline="")
    with (tmp_path / "a.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "text"], *enumerate(texts)])
    assert [row.values["text"] for row in read_rows(tmp_path / "a.jsonl")] == texts
    assert [row.values["text"] for row in read_rows(tmp_path / "a.csv")] == texts
