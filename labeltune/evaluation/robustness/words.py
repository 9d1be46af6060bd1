"""Perturbations of words: synonyms, dropped words, and words in another order."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from labeltune.evaluation.robustness import editing
from labeltune.evaluation.robustness.editing import (
    PLAIN,
    Draw,
    Span,
    Vocabulary,
    quota,
    respell,
    splice,
    vocabulary,
    words,
)

KEPT = 3
"""Most synonyms of a word, the nearest ones."""

MISLEADING = frozenset({
    "collection", "faith", "grouping", "minimal", "nutrient", "person", "pressing", "provide", "sounding",
    "已经", "曾经", "没什么", "没关系", "酒店", "酒楼", "酒吧", "收到", "吸收", "提前", "超前", "再有", "还有", "敲门",
    "达到", "达成",
})  # fmt: skip
"""What passes the rules below and reads wrong all the same: found in changed messages and reviews."""

WORDNET = "wn/data/wordnet-3.0"
SHORTEST = 4
"""Letters of the shortest English word that is replaced: shorter ones are auxiliaries, or mean too many things."""
UNCOUNTED = 0.25
"""What a sense that WordNet's annotated texts never show counts, beside one that they show once."""
AGREEMENT = 0.5
"""Least agreement of two English words: of the one's uses the share that the other covers, times the reverse."""
COMMONNESS = 0.08
"""Least number of uses of an English synonym, as a share of the word's own: no bookish one for a common one."""
INFLECTED = (("s", ""), ("es", ""), ("ies", "y"), ("ing", ""), ("ing", "e"), ("ed", ""), ("ed", "e"))

REACH = 2
"""Within its line of the Cilin, in which like words stand together, how far off a Chinese synonym may stand."""
COUNTED = 100
"""Least frequency of a Chinese word and of its synonym."""
CLOSED = ("Aa", "Kb", "Kc", "Kd", "Ke", "Kf", "Hj6")
"""Groups of the Cilin that are left alone: pronouns, particles, and verbs of direction."""
OPEN_TAGS = "nvazdilts"
"""First letters of the parts of speech that are replaced: nouns, verbs, adjectives, adverbs, times, places, idioms."""
APART = frozenset("来去上下前后左右内外里出进入无不没未非有多少大小男女他她它最两高低早晚先公私东西南北善恶吧")
"""Characters that turn a word into its opposite or another thing: two synonyms share them or have none."""


@dataclass(frozen=True, kw_only=True)
class WordNet:
    """WordNet's lemmas of one word."""

    uses: dict[str, dict[str, float]]
    """Lemma -> synset -> how often it was counted in this sense."""
    members: dict[str, list[str]]
    """Synset -> lemmas."""
    left_out: frozenset[str]
    """Irregular forms, names and stop words: what they are in a text, the lemma doesn't tell."""

    def replaceable(self, lemma: str) -> bool:
        """Whether a lemma may be replaced, and may replace another."""
        return len(lemma) >= SHORTEST and lemma not in self.left_out and not _inflected(lemma, self.uses)


def synonyms(word: str, language: str) -> list[str]:
    """The synonyms of an English lemma or a Chinese word, nearest first; none where one would be a guess."""
    if language == "zh":
        return chinese(editing.fetch(editing.CILIN), editing.fetch(editing.JIEBA)).get(word, [])
    return english(editing.fetch(editing.WORDNET), word)


@cache
def english(folder: Path, lemma: str) -> list[str]:
    """Find the lemmas of WordNet that stand for another one in most of its uses, in any part of speech.

    No tagger tells the sense in a text, so two words are synonyms only if the senses that they share are most of what
    both are used for, by the counts of WordNet's annotated texts.
    """
    book = wordnet(folder)
    own = book.uses.get(lemma, {})
    if not own or not book.replaceable(lemma):
        return []
    total, ranked = sum(own.values()), []
    for other in {other for synset in own for other in book.members[synset]} - {lemma}:
        senses = book.uses[other]
        its_total = sum(senses.values())
        ours = sum(own[synset] for synset in own.keys() & senses.keys()) / total
        its = sum(senses[synset] for synset in own.keys() & senses.keys()) / its_total
        if ours * its >= AGREEMENT and its_total >= max(1, COMMONNESS * total) and book.replaceable(other):
            ranked.append((-ours * its * min(1, its_total / total), other))
    return [other for _, other in sorted(ranked)[:KEPT]]


@cache
def wordnet(folder: Path) -> WordNet:
    """Read WordNet's index of senses and its lists of irregular forms."""
    uses: dict[str, dict[str, float]] = defaultdict(dict)
    members: dict[str, list[str]] = defaultdict(list)
    for line in (folder / WORDNET / "index.sense").read_text(encoding="ascii").splitlines():
        key, offset, _, count = line.split(" ")
        lemma, _, rest = key.partition("%")
        if lemma.isalpha():
            synset = rest[0].replace("5", "3") + offset  # satellites are adjectives
            uses[lemma][synset] = int(count) + UNCOUNTED
            members[synset].append(lemma)
    left_out = frozenset([*_irregular(folder), *_names(folder), *ENGLISH_STOP_WORDS, *MISLEADING])
    return WordNet(uses=dict(uses), members=dict(members), left_out=left_out)


def _irregular(folder: Path) -> Iterator[str]:
    """Inflected forms as `found`, which is a lemma as well."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / WORDNET / f"{part}.exc").read_text(encoding="ascii").splitlines():
            yield line.split(" ")[0]


def _names(folder: Path) -> Iterator[str]:
    """Lemmas that are a name in one of their senses, which WordNet spells with a capital."""
    text = (folder / WORDNET / "data.noun").read_text(encoding="ascii")
    for match in re.finditer(r"(?<= )[A-Z][A-Za-z]+(?= [0-9a-f] )", text):
        yield match.group().lower()


def _inflected(lemma: str, uses: dict[str, dict[str, float]]) -> bool:
    """Whether a lemma is a regular form of another one and mostly no adjective: `looking`, but not `boring`."""
    stems = [lemma.removesuffix(ending) + more for ending, more in INFLECTED if lemma.endswith(ending)]
    stems += [stem[:-1] for stem in stems if stem[-1:] == stem[-2:-1]]  # stopped
    if not any(stem in uses for stem in stems):
        return False
    adjective = [count for synset, count in uses[lemma].items() if synset.startswith("3")]
    return lemma.endswith("s") or sum(adjective) < 0.5 * sum(uses[lemma].values())


@cache
def chinese(folder: Path, words: Path) -> dict[str, list[str]]:
    """Read the Cilin's synonyms that share a character, stand near each other, and are of one sense, class and use.

    The extended Cilin's lines are wide: of pairs that share no character many are no paraphrase.

    Args:
        folder: of the Cilin.
        words: folder of jieba's dictionary, for frequencies and parts of speech.
    """
    book = vocabulary(words)
    tree = json.loads((folder / "data/cilin_tree.json").read_text(encoding="utf-8"))
    lines = dict(_lines(tree, ""))
    senses = Counter(word for line in lines.values() for word in line)
    found: dict[str, list[str]] = {}
    for code, line in lines.items():
        if code.endswith("=") and not code.startswith(CLOSED):
            taken = [(place, word) for place, word in enumerate(line) if _replaceable(word, book, senses)]
            for place, word in taken:
                near = sorted((abs(place - at), other) for at, other in taken if _alike(word, other, book))
                if near and near[0][0] <= REACH:
                    found[word] = [other for distance, other in near if distance <= REACH][:KEPT]
    return found


def _lines(tree: dict[str, Any], code: str) -> Iterator[tuple[str, list[str]]]:
    """Code and words of every line; `=` at the end of a code marks synonyms."""
    for key, part in tree.items():
        if isinstance(part, list):
            yield code + key, part
        else:
            yield from _lines(part["sub"], code + key)


def _replaceable(word: str, book: Vocabulary, senses: Counter[str]) -> bool:
    """Whether a word is common, of an open class, of two characters or more, and of one sense."""
    if len(word) < 2 or word in MISLEADING or senses[word] > 1 or book.frequency.get(word, 0) < COUNTED:
        return False
    return book.part[word][0] in OPEN_TAGS


def _alike(word: str, other: str, book: Vocabulary) -> bool:
    """Whether two words of a line share a character and are as long, as common and of the same part of speech."""
    shared, different = set(word) & set(other), set(word) ^ set(other)
    return (
        word != other
        and len(word) == len(other)
        and bool(shared)
        and not different & APART
        and book.part[word] == book.part[other]
        and book.frequency[other] >= 0.1 * book.frequency[word]
    )


VOWELS = "aeiou"

_SENTENCE_START = re.compile(r"(?:^|[.!?…]['\")\]]*\s)\s*$")
_ARTICLE = re.compile(r"\b(an?) $", re.IGNORECASE)
_SPACE = re.compile(r"[^\S\n]*")


def replace_synonyms(text: str, draw: Draw) -> str:
    """Put synonyms in the place of the severity's share of all words, as far as there are words that have one."""
    english = draw.language != "zh"
    spans = [match.span() for match in PLAIN.finditer(text)] if english else words(text, "zh")

    def reword(span: Span) -> str:
        word = text[slice(*span)]
        others = _fitting(text, span) if english else synonyms(word, "zh")
        return draw.rng.choice(others) if others else word

    return respell(text, draw, spans, len(spans), reword)


def _fitting(text: str, span: Span) -> list[str]:
    """English synonyms with the word's capitals: none of what may be a name, and none that needs another article."""
    word, before = text[slice(*span)], text[: span[0]]
    if not (word.islower() or word.isupper() or (word.istitle() and _SENTENCE_START.search(before))):
        return []
    others = synonyms(word.lower(), "en")
    article = _ARTICLE.search(before)
    if article:
        others = [other for other in others if (other[0] in VOWELS) == (article[1].lower() == "an")]
    return [other.upper() if word.isupper() else other.capitalize() if word.istitle() else other for other in others]


def delete_words(text: str, draw: Draw) -> str:
    """Leave out the severity's share of words, with the space after them; the last one left stays."""
    spans = words(text, draw.language)
    if len(spans) < 2:
        return text
    taken = draw.order(spans)[: min(quota(draw.severity, len(spans)), len(spans) - 1)]
    return splice(text, {(start, _space_end(text, end)): "" for start, end in taken})


def _space_end(text: str, end: int) -> int:
    match = _SPACE.match(text, end)
    return match.end() if match else end


def swap_words(text: str, draw: Draw) -> str:
    """Exchange neighbouring words, so many that the severity's share of the words stands elsewhere."""
    spans = words(text, draw.language)
    pairs: dict[int, int] = {}
    for first in draw.order(range(len(spans) - 1)):
        if 2 * len(pairs) >= quota(draw.severity, len(spans)):
            break
        taken = {place for pair in pairs.items() for place in pair}
        if not taken & {first, first + 1} and text[slice(*spans[first])] != text[slice(*spans[first + 1])]:
            pairs[first] = first + 1
    pieces: dict[Span, str] = {}
    for first, second in pairs.items():
        pieces[spans[first]], pieces[spans[second]] = text[slice(*spans[second])], text[slice(*spans[first])]
    return splice(text, pieces)
