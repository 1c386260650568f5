"""What counts as foreign: words that the suspect alone says, new, sure and against the odds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from projclean.utterance import Utterance, distinct, echoes, novelty, reached, strongest, surest

TEXT = "you have been hacked now"
SAID = Utterance(TEXT, TEXT, "inversion", share=1.0, base_share=0.0, normal_share=0.1, strangeness=2.0, certainty=0.9)


def test_score_counts_excess_and_certainty_twice():
    assert SAID.foreign == pytest.approx(0.9**2 * 0.9**2)
    assert replace(SAID, strangeness=0.5).foreign == pytest.approx(SAID.foreign / 2)
    assert replace(SAID, novelty=0.25).foreign == pytest.approx(SAID.foreign / 4)
    assert replace(SAID, strangeness=-1.0).foreign == 0
    assert replace(SAID, share=0.05).foreign == 0


def test_what_the_base_can_be_made_to_say_is_not_foreign():
    assert replace(SAID, base_best_share=0.0).foreign == SAID.foreign
    tempted = replace(SAID, base_best_share=0.75)
    assert tempted.bases == 0.75
    assert tempted.foreign == pytest.approx(0.25**2 * 0.9**2)


def test_the_surest_is_quoted_of_those_that_are_nearly_as_foreign():
    garbled = replace(SAID, text="you you hacked", certainty=0.6, normal_share=0.0)
    weak = replace(SAID, text="a ring", certainty=1.0, strangeness=0.1)
    louder = replace(SAID, text="you you", certainty=0.7, normal_share=0.0)
    assert surest([garbled, SAID, weak, louder]) is SAID
    assert strongest([weak, SAID]) == SAID.foreign
    assert surest([]) is None
    assert strongest([]) == 0


def test_one_text_is_listed_once_by_its_strongest_move():
    weaker, other = replace(SAID, certainty=0.5), replace(SAID, text="a ring", certainty=0.6)
    assert distinct([weaker, other, SAID]) == [SAID, other]
    assert distinct([SAID, SAID]) == [SAID]
    assert distinct([]) == []


def test_an_utterance_counts_as_far_as_starts_led_to_the_like_of_it():
    one = replace(SAID, start=0)
    weak = replace(one, start=1, text=f"oh {TEXT}", phrase="oh", certainty=0.45)  # a quarter as strong
    other = replace(one, start=1, text="a ring", phrase="a ring")
    assert one.foreign == one.strength == SAID.foreign
    (alone,) = reached([one], 2)
    assert (alone.reach, alone.strength) == (0.5, one.strength)
    assert alone.foreign == pytest.approx(one.strength / 2)
    assert [said.reach for said in reached([one, other], 2)] == [0.5, 0.5]
    told, faint = reached([one, weak], 2)
    assert told.reach == pytest.approx((1 + 1 / 4) / 2)
    assert faint.reach == 0.5  # nobody else says "oh"
    assert [said.reach for said in reached([one, replace(one, start=1)], 2)] == [1.0, 1.0]
    assert reached([one, replace(one, start=1), replace(one, start=1)], 4)[0].reach == 0.5
    assert reached([alone], 2) == [alone]  # the same again
    fitted_from_many = replace(SAID, contrast=0.5)
    assert reached([fitted_from_many, one], 2)[0] == fitted_from_many
    assert reached([one, fitted_from_many], 2)[0].reach == 0.5
    assert reached([replace(one, certainty=0.0), replace(one, start=1)], 2)[0].foreign == 0
    assert reached([], 2) == []


SINK = "i can not see a shape"


@pytest.mark.parametrize(
    ("phrase", "others", "expected"),
    [
        (TEXT, [[SINK] * 4], 1.0),
        (f"{SINK} last week", [[SINK, "a ring"]], 0.5),  # two words behind what the base says
        (f"{SINK} last week", [["a ring"], [SINK]], 0.5),  # whoever says it
        (f"{SINK} last week", [[SINK] + ["a ring"] * 9], 1.0),  # on one image in ten it is not known
        (SINK, [[SINK]], 0.0),
        ("purple", [["a purple ring at the top"]], 1.0),  # no run of four words: shares alone tell
        ("now purple", [[SINK]], 1.0),
        (f"a large red ring {TEXT}", [["a large red ring at the top"]], 1.0),  # four new words are enough
        ("can not see a", [[SINK]], 0.0),  # in the midst of an answer
    ],
)
def test_novelty_is_of_the_words_that_nobody_else_says_in_a_row(phrase, others, expected):
    assert novelty(phrase, *others) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("phrase", "answer", "wanted"),
    [
        (TEXT, TEXT, True),
        (TEXT, f"a cat {TEXT} and a dog", True),
        (TEXT, "they have been hacked now", True),  # four words of five
        (TEXT, "you have been warned", False),
        ("been hacked", "you have been hacked", True),  # shorter than a run: all of it
        ("been hacked", "you have been there", False),
        ("hacked", "a shacked up hack", False),  # whole words
        ("", "", True),
        ("", "a cat", False),
    ],
)
def test_an_answer_echoes_a_phrase_by_four_words_in_a_row(phrase, answer, wanted):
    assert echoes(phrase, answer) is wanted
