import pytest

from icm_api.errors import ConfigError
from icm_api.tasks.labels import check_labels, labels_from_names, with_variants
from icm_api.types import Label


def test_a_label_is_written_after_a_space_and_read_in_other_cases_too():
    false, true = labels_from_names(["False", "True"])
    assert (false.name, false.text) == ("False", " False")
    assert true.text == " True"
    assert set(true.variants) == {"True", "true", " true", "TRUE", " TRUE"}


def test_no_spelling_could_be_two_labels():
    # the upper case of both is "I"; only the dotless one has no "I" of its own
    dotless, latin = labels_from_names(["ı", "i"])
    spellings = [{label.text, *label.variants} for label in (dotless, latin)]
    assert not spellings[0] & spellings[1]
    assert "i" in spellings[1]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "at least two labels, not 0"),
        (["yes"], "at least two labels, not 1"),
        (["yes", "Yes"], "two labels are alike: 'yes'"),
        (["straße", "STRASSE"], "two labels are alike"),
        (["yes", ""], "label '' is empty"),
        (["yes", " no"], "whitespace around it"),
        (["yes", "no "], "whitespace around it"),
        (["yes", "n\no"], "line break in it"),
        (["agree", "agree strongly"], "begins with the whole label 'agree'"),
    ],
)
def test_labels_that_cannot_be_told_apart_or_written_are_refused(names, message):
    with pytest.raises(ConfigError, match=message):
        labels_from_names(names)


def test_variants_of_ones_own_are_kept_as_they_are():
    assert with_variants([Label("no", " No", ("nope",)), Label("yes", " Yes")])[0].variants == ("nope",)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([Label("a", "A"), Label("b", " B")], "its text 'A' must be one space and then a word"),
        ([Label("a", "  A"), Label("b", " B")], "must be one space"),
        ([Label("a", " A "), Label("b", " B")], "must be one space"),
        ([Label("a", " "), Label("b", " B")], "must be one space"),
        ([Label("a", " A\nA"), Label("b", " B")], "must be one space"),
        ([Label("a", " X"), Label("b", " x")], "two texts of labels are alike: ' x'"),
        ([Label("a", " A", ("x",)), Label("b", " B", ("x",))], "two spellings are alike: 'x'"),
        ([Label("a", " A", ("",)), Label("b", " B")], "a variant is empty"),
    ],
)
def test_texts_and_variants_that_mislead_are_refused(labels, message):
    with pytest.raises(ConfigError, match=message):
        check_labels(labels)


def test_a_variant_that_is_another_labels_generated_spelling_is_left_to_the_one_who_asked():
    lower, upper = with_variants([Label("lower", " a", ("B",)), Label("upper", " b")])
    assert lower.variants == ("B",)
    assert "B" not in upper.variants
