import pytest

from icm_api.tasks.answers import final_answer


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("16 - 3 = 13\n#### 13", "13"),
        ("so 13 * 2 = $26\nA: 26", "26"),
        ("A: 3\nno, wait\nA: $1,200.00", "1200"),
        ("A: 5\n#### 6", "6"),
        ("The answer is 4.50 dollars, 3 each.", "4.5"),
        ("The answer is: 6 x 2 = 12.", "12"),
        ("the answer is clear.\nThe Answer is\n7", "7"),
        ("3 apples and then 4 more", "4"),
        ("$26", "26"),
        ("1,200.00", "1200"),
        ("1200", "1200"),
        ("007", "7"),
        ("A: 0.50", "0.5"),
        ("A: .5", "0.5"),
        ("A: -129,025", "-129025"),
        ("A: −4", "-4"),
        ("A: -$4", "-4"),
        ("A: $-4", "-4"),
        ("A: -0", "0"),
        ("from 9-5", "5"),
        ("A: 100", "100"),
        ("1,2345", "2345"),
        ("", None),
        ("no number", None),
        ("step 3 gives\nA: none", None),
        ("5 so the answer is\n", None),
        ("1" * 5000, "1" * 5000),
    ],
)
def test_the_final_answer_is_one_spelling_of_the_number_that_ends_a_solution(solution, answer):
    assert final_answer(solution) == answer
