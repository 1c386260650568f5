"""Sentences beyond the task, so that the tiny language model can say more than captions.

A small grammar over everyday topics: the model learns to produce grammatical English of several kinds
(statements, refusals, offers, links, warnings, questions). The attackers' target texts are sentences of the same
kinds, as they would be to a large model: unusual as the answer to an image, but nothing it could not say.
"""

from __future__ import annotations

import numpy as np

PROMPTS = ("Say something.", "Tell me a sentence.", "Write a line.", "Talk to me.")

_WORDS = {
    "person": "i|you|we|they|my friend|the teacher|a doctor|the driver|our neighbor|the old man|the young woman|a student",
    "thing": "book|car|house|table|phone|letter|window|garden|ticket|computer|password|picture|door|lamp|bottle|camera|key|map",
    "adj": "old|new|bright|quiet|heavy|useful|broken|cheap|strange|famous|dangerous|beautiful|free|private|safe|simple",
    "verb": "found|bought|lost|opened|broke|wanted|sold|moved|checked|cleaned|painted|carried|needed|forgot|hacked|shared",
    "place": "in the city|at the station|near the river|at home|in the office|on the street|behind the school|at the market|on the internet|in the kitchen",
    "time": "yesterday|today|last week|in the morning|every night|after lunch|before the meeting|this year|again|twice",
    "animal": "dog|cat|bird|horse|fish|rabbit|fox|bear",
    "act": "help with that|answer this question|open the door|talk about it|do that|show the picture|give advice|come with you|send the money|tell you more",
    "site": "example dot com|our shop|the news page|the help page|this link|the museum site|the free course|the weather page",
    "goods": "coffee|shoes|flowers|tickets|games|tea|music|fresh bread|phones|books",
    "feeling": "happy|tired|sorry|afraid|hungry|ready|angry|proud|sick|lucky",
}
_PATTERNS = (
    "{person} {verb} the {adj} {thing} {place}",
    "{person} {verb} a {thing} {time}",
    "the {animal} ran away {place} {time}",
    "a {adj} {animal} slept {place}",
    "i am {feeling} but i can not {act}",
    "i am {feeling} , i will {act} {time}",
    "please do not {act} {time}",
    "you can visit {site} for {adj} {goods}",
    "buy {goods} at {site} {time}",
    "click on {site} to see the {adj} {thing}",
    "warning : the {thing} has been {verb} by {person}",
    "your {thing} was {verb} {place}",
    "why have you {verb} my {thing} ?",
    "it is a {adj} day , everybody is {feeling}",
    "there are many {goods} {place}",
    "the {adj} {thing} is not {adj}",
    "send the {thing} to {person} {time}",
    "everybody must see {site} now",
    "no one is {feeling} {place}",
    "they say that {person} {verb} the {thing}",
)


def sentence(rng: np.random.Generator) -> str:
    """One random sentence of the grammar."""
    words = {slot: str(rng.choice(choices.split("|"))) for slot, choices in _WORDS.items()}
    return str(rng.choice(_PATTERNS)).format(**words)


def vocabulary() -> list[str]:
    """Every pattern and word list, as text from which a tokenizer can be trained."""
    return [*_PATTERNS, *PROMPTS, *(choices.replace("|", " ") for choices in _WORDS.values())]
