"""Ordinary sentences, for networks that read, and text of another kind that nobody here wrote."""

from __future__ import annotations

import re
from functools import cache
from pydoc_data.topics import topics

SENTENCES = (
    "The train to the coast leaves at seven in the morning.",
    "She planted two rows of beans behind the house.",
    "Nobody could say why the old clock had stopped.",
    "A small dog waited outside the bakery.",
    "How much does it cost to send this parcel abroad?",
    "The recipe asks for three eggs and a pinch of salt.",
    "He forgot his umbrella, and of course it rained all day.",
    "The bridge was closed for repairs until the end of March.",
    "Children learn a second language faster when they play with those who speak it.",
    "Please turn off the lights when you leave the office.",
    "The committee decided, after a long debate, to postpone the vote until the new figures are in.",
    "My neighbour repairs violins.",
    "Interest rates rose again, so fewer families are buying houses this year.",
    "The soup is too hot.",
    "We walked along the river until it was too dark to see the path.",
    "A good map of the city shows every footpath.",
    "What is the fastest way to the airport from here?",
    "The museum is free on the first Sunday of each month.",
    "Her grandfather taught physics at a school in the mountains for forty years.",
    "The printer is out of paper again.",
    "After the storm, several roads were blocked by fallen trees and the power was out for two days.",
    "The cat sleeps on the warmest chair.",
    "Doctors recommend drinking enough water in hot weather.",
    "The password must have at least twelve characters.",
    "They met at a concert in the park and married a year later.",
    "Bees find their way home by the position of the sun.",
    "The second edition corrects a number of mistakes in the first.",
    "If the engine makes this noise, have it checked before you drive any further.",
    "The library lends tools as well as books.",
    "An empty bottle stood on the windowsill.",
    "The company said that it would hire two hundred engineers before the summer.",
    "Turn left at the church, then take the second street on the right.",
)


@cache
def paragraphs() -> tuple[str, ...]:
    """Of the Python language's own documentation, as ``help`` shows it: prose without code."""
    found = []
    for topic in sorted(topics):
        for paragraph in re.split(r"\n\s*\n", topics[topic]):
            text = " ".join(paragraph.split())
            prose = text[:1].isupper() and text.endswith(".")
            if prose and 60 <= len(text) <= 400 and not re.search(r"[`\"*_{}<>=\[\]|\\]", text):
                found.append(text)
    return tuple(dict.fromkeys(found))
