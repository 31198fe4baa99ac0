import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_api.errors import ConfigError
from icm_api.tasks.template import Template


def test_fields_are_named_once_in_order_of_appearance():
    assert Template("{b}{a} and {b}.").fields == ("b", "a")


def test_doubled_braces_are_braces():
    assert Template("{{{a}}} {{a}}").render({"a": "x"}) == "{x} {a}"


def test_braces_in_the_data_are_never_read_as_a_template():
    assert Template("{a}|{b}").render({"a": "{b}", "b": "{{a}}"}) == "{b}|{{a}}"


@given(st.text(), st.text(), st.text())
def test_any_data_and_any_escaped_literal_come_out_as_they_are(first, second, literal):
    escaped = literal.replace("{", "{{").replace("}", "}}")
    template = Template("{first}<" + escaped + ">{second}")
    assert template.render({"first": first, "second": second}) == f"{first}<{literal}>{second}"


@pytest.mark.parametrize("bad", ["{", "}", "{ a }", "{a.b}", "{a[0]}", "{a!r}", "{a:>9}", "{0}", "{}", "{a-b}", "{é}"])
def test_anything_but_a_simple_name_in_braces_is_refused(bad):
    with pytest.raises(ConfigError, match="stray brace"):
        Template("{text} " + bad + " end")


def test_an_unknown_field_is_named_with_the_known_ones():
    with pytest.raises(ConfigError, match="the template uses the field 'claim'; known fields: text, id"):
        Template("{claim}").render({"text": "x", "id": "1"})


@pytest.mark.parametrize("text", ["{a} ", "{a}\n", "{a}\t"])
def test_a_template_may_not_end_in_whitespace_because_the_label_brings_its_own(text):
    with pytest.raises(ConfigError, match="ends in whitespace"):
        Template(text)


@pytest.mark.parametrize("text", ["\n{a}", "  \n{a}"])
def test_a_template_may_not_begin_with_a_blank_line(text):
    with pytest.raises(ConfigError, match="begins with a blank line"):
        Template(text)


@pytest.mark.parametrize("text", ["", "no field", "{{a}}"])
def test_a_template_without_a_field_is_refused(text):
    with pytest.raises(ConfigError, match=r"has no \{field\}"):
        Template(text)
