"""Near-duplicate detection: an exact all-pairs set-similarity join over character 5-grams."""

import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

SHINGLE = 5
CHUNK = 4096
BUCKETS = 1 << 22
Progress = Callable[[int], None]


def find_near_duplicates(
    texts: Sequence[str],
    groups: Sequence[int],
    threshold: float,
    *,
    inside: bool,
    progress: Progress | None = None,
) -> NDArray[np.int64]:
    """For each text, find an earlier one whose 5-gram Jaccard similarity is at least `threshold`.

    Two sets that similar share one of their first `n - ceil(threshold * n) + 1` elements under any common order,
    so only rows that share such a prefix element are compared; ordering rare elements first keeps them few
    (prefix filtering: Chaudhuri et al. 2006; Bayardo et al. 2007, "Scaling up all pairs similarity search").
    Texts are compared after NFKC, case folding and collapsing white space.

    Args:
        texts: the texts of the rows; rows that take precedence come first.
        groups: the split of each row; rows of one split are adjacent.
        threshold: similarity from 0.5 to 1.
        inside: whether to search the row's own split, where a row that matched is not a match for later ones;
            otherwise only the splits before it are searched.
        progress: called with the number of rows done since the last call.

    Returns:
        Index of the match, or -1, `[rows]`.
    """
    matches = np.full(len(texts), -1, dtype=np.int64)
    if len(texts) < 2:
        return matches
    weight = np.zeros(BUCKETS, dtype=np.int64)
    for _, sets in _shingled(texts):
        weight += np.bincount(np.concatenate(sets) % BUCKETS, minlength=BUCKETS)
    shared = _shared_prefixes(texts, weight, threshold)
    postings: dict[int, list[int]] = {}
    kept: dict[int, NDArray[np.uint64]] = {}
    last = max(groups)
    for start, sets in _shingled(texts):
        for row, elements in enumerate(sets, start):
            prefix = [token for token in _prefix(elements, weight, threshold).tolist() if token in shared]
            candidates = {other for token in prefix for other in postings.get(token, ())}
            for other in sorted(candidates):
                if (groups[other] == groups[row]) == inside and _similar(elements, kept[other], threshold):
                    matches[row] = other
                    break
            if prefix and ((inside and matches[row] < 0) or (not inside and groups[row] != last)):
                kept[row] = elements
                for token in prefix:
                    postings.setdefault(token, []).append(row)
        if progress:
            progress(len(sets))
    return matches


def _shingled(texts: Sequence[str]) -> Iterator[tuple[int, list[NDArray[np.uint64]]]]:
    """Yield the first row of each chunk and the sorted unique 5-gram hashes of its rows, each `[elements]`."""
    powers = np.array([0x9E3779B97F4A7C15**k % (1 << 64) for k in range(1, SHINGLE + 1)], dtype=np.uint64)
    for start in range(0, len(texts), CHUNK):
        sets = []
        for text in texts[start : start + CHUNK]:
            folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split()).ljust(SHINGLE, "\0")
            points = np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
            windows = np.lib.stride_tricks.sliding_window_view(points, SHINGLE)
            hashes = (windows * powers).sum(axis=1, dtype=np.uint64)
            sets.append(np.unique(hashes ^ (hashes >> np.uint64(29))))
        yield start, sets


def _prefix(elements: NDArray[np.uint64], weight: NDArray[np.int64], threshold: float) -> NDArray[np.uint64]:
    """Return the rarest elements of a set, as many as the prefix filter needs, `[prefix]`."""
    size = len(elements) - math.ceil(threshold * len(elements) - 1e-9) + 1
    order = np.lexsort((elements, weight[elements % BUCKETS]))
    return elements[order[:size]]


def _shared_prefixes(texts: Sequence[str], weight: NDArray[np.int64], threshold: float) -> set[int]:
    """Return the prefix elements that several rows have; the others, by far the most, match nothing."""
    prefixes = [_prefix(elements, weight, threshold) for _, sets in _shingled(texts) for elements in sets]
    tokens, counts = np.unique(np.concatenate(prefixes), return_counts=True)
    return set(tokens[counts > 1].tolist())


def _similar(left: NDArray[np.uint64], right: NDArray[np.uint64], threshold: float) -> bool:
    smaller, larger = sorted((len(left), len(right)))
    if smaller < threshold * larger - 1e-9:
        return False
    overlap = len(np.intersect1d(left, right, assume_unique=True))
    return overlap >= threshold * (len(left) + len(right) - overlap) - 1e-9
