"""Label texts with an exported classifier; labeltune itself is not needed.

In the folder of an export this file is predict.py:

    python predict.py "a text" "another text"
    python predict.py < texts.jsonl

The input is a JSON string per line, the output a JSON object per line; from Python, `Classifier(folder).predict(["a
text"])`. It needs transformers and torch or, for a model.onnx, onnxruntime and tokenizers.
"""

import itertools
import json
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS = 16
"""Number of texts per batch."""
STREAMED = 64
"""Number of lines of the standard input that are predicted together, in batches of similar length."""

Offsets = list[tuple[int, int]]
Encode = Callable[[str], tuple[list[int], Offsets]]
Run = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]


class Classifier:
    """An exported classifier in memory."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.settings: dict[str, Any] = json.loads((folder / "labeltune.json").read_text(encoding="utf-8"))
        self.encode, self.run = (_onnx if (folder / "model.onnx").is_file() else _transformers)(folder)
        self.ngrams = Ngrams(folder) if self.settings["ngrams"] else None

    def predict(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Classify each text: label, confidence, probabilities, abstained, truncated and calibrated logits."""
        encoded = [self.tokens(text) for text in texts]
        answers: list[dict[str, Any]] = [{} for _ in texts]
        order = sorted(range(len(texts)), key=lambda row: -len(encoded[row][0]))
        for start in range(0, len(order), ROWS):
            rows = order[start : start + ROWS]
            longest = len(encoded[rows[0]][0])
            ids = np.full((len(rows), longest), self.settings["pad_token_id"], dtype=np.int64)  # [batch, length]
            mask = np.zeros_like(ids)
            for place, row in enumerate(rows):
                tokens = encoded[row][0]
                ids[place, : len(tokens)] = tokens  # padded on the right
                mask[place, : len(tokens)] = 1
            for row, logits in zip(rows, self.run(ids, mask), strict=True):
                answers[row] = self._answer(self._blended(logits.astype(np.float64), texts[row]), encoded[row][1])
        return answers

    def _blended(self, logits: NDArray[np.float64], text: str) -> NDArray[np.float64]:
        """Return the network's logits of a text, with those of the n-gram model added if there is one."""
        if self.ngrams is None:
            return logits
        return logits + self.settings["ngrams"] * self.ngrams.logits(self.normalized(text))

    def tokens(self, text: str) -> tuple[list[int], bool]:
        """Return the tokens of the prompt with a text, and whether the text was truncated in its middle.

        Control tokens that are written in a text are split into ordinary ones.
        """
        text = self.normalized(text)
        front, back, most = (self.settings[key] for key in ("front", "back", "max_length"))
        ids, offsets = self.encode(front + text + back)
        if len(ids) <= most:
            return ids or [self.settings["blank_token_id"]], False
        begin, end = len(front), len(front) + len(text)
        inside = [i for i, (a, b) in enumerate(offsets) if a < b and begin <= a and b <= end]
        keep = len(inside) - (len(ids) - most)
        first = inside[(keep + 1) // 2]
        return ids[:first] + ids[first + len(inside) - keep :], True

    def normalized(self, text: str) -> str:
        """Normalize a text as the training texts were normalized."""
        form, space = (self.settings["normalization"][key] for key in ("unicode", "whitespace"))
        if form != "none":
            text = unicodedata.normalize(form, text)
        if space == "collapse":
            return re.sub("[\\s\u200b\ufeff]+", " ", text).strip(" ")
        return text.strip() if space == "strip" else text

    def _answer(self, logits: NDArray[np.float64], truncated: bool) -> dict[str, Any]:
        exponential = np.exp(logits - logits.max())
        given = exponential / exponential.sum()
        # The label of least expected cost after a training with class weights, whose effect the bias removes.
        guess = int((logits - (self.settings["bias"] or 0)).argmax())
        confidence = float(given[guess])
        return {
            "label": self.settings["labels"][guess],
            "confidence": confidence,
            "probabilities": dict(zip(self.settings["labels"], given.tolist(), strict=True)),
            "abstained": confidence < self.settings["threshold"],
            "truncated": truncated,
            "logits": logits.tolist(),
        }


class Ngrams:
    """TF-IDF of n-grams of words and characters, as scikit-learn computes it, and a linear model on that."""

    def __init__(self, folder: Path) -> None:
        known = json.loads((folder / "ngrams.json").read_text(encoding="utf-8"))["vocabularies"]
        with np.load(folder / "ngrams.npz") as arrays:
            self.idf, self.weights, self.intercept = (arrays[name] for name in ("idf", "weights", "intercept"))
        self.columns: dict[str, dict[str, int]] = {}
        for kind in sorted(known, key=list(ANALYZERS).index):
            start = sum(map(len, self.columns.values()))
            self.columns[kind] = {ngram: start + place for place, ngram in enumerate(known[kind])}

    def logits(self, text: str) -> NDArray[np.float64]:
        """Return the logits of a text, `[num_labels]`."""
        total: NDArray[np.float64] = self.intercept.astype(np.float64)
        for kind, columns in self.columns.items():
            found = Counter(columns[ngram] for ngram in ANALYZERS[kind](text.lower()) if ngram in columns)
            if found:
                places = list(found)
                features = (1 + np.log(list(found.values()))) * self.idf[places]
                total = total + features / np.linalg.norm(features) @ self.weights[places]
        return total


def words(text: str) -> list[str]:
    """Return the words of a text and pairs of neighbouring words; punctuation marks are words."""
    found = re.findall(r"\w+|[^\w\s]+", text)
    return found + [f"{first} {second}" for first, second in itertools.pairwise(found)]


def characters(text: str) -> list[str]:
    """Return the sequences of 1 to 4 characters in the words of a text, with a space at either end of a word."""
    found = []
    for word in text.split():
        padded = f" {word} "
        for size in range(1, 5):
            found += [padded[start : start + size] for start in range(max(1, len(padded) - size + 1))]
            if len(padded) <= size:
                break
    return found


ANALYZERS: dict[str, Callable[[str], list[str]]] = {"words": words, "characters": characters}
"""Kind of n-gram -> function that returns those of a text, in the order of the weights."""


def _transformers(folder: Path) -> tuple[Encode, Run]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    own = (folder / "pooled.py").is_file()  # a class that Transformers lacks
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=own)
    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=own).eval()
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")

    def encode(prompt: str) -> tuple[list[int], Offsets]:
        found = tokenizer(prompt, split_special_tokens=True, return_offsets_mapping=True, verbose=False)
        return found["input_ids"], found["offset_mapping"]

    def run(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        tokens, real = (torch.from_numpy(array).to(model.device) for array in (ids, mask))
        with torch.inference_mode():
            return model(input_ids=tokens, attention_mask=real).logits.float().cpu().numpy()

    return encode, run


def _onnx(folder: Path) -> tuple[Encode, Run]:
    import onnxruntime
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=onnxruntime.get_available_providers())

    def encode(prompt: str) -> tuple[list[int], Offsets]:
        found = tokenizer.encode(prompt)
        return found.ids, found.offsets

    def run(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        return session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]

    return encode, run


def main() -> None:
    """Label the arguments, or the lines of the standard input."""
    classifier = Classifier(Path(__file__).parent)
    texts = iter(sys.argv[1:]) if len(sys.argv) > 1 else (json.loads(line) for line in sys.stdin if line.strip())
    while chunk := list(itertools.islice(texts, STREAMED)):
        for answer in classifier.predict(chunk):
            print(json.dumps(answer, ensure_ascii=True), flush=True)


if __name__ == "__main__":
    main()
