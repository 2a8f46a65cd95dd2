"""Near-duplicates: problems of which one is a small change of the other."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from tasks.gdsd.domains import Domain
from tasks.gdsd.domains.answers import UNSPACED, WORDS
from tasks.gdsd.modules.own import explained

Run = tuple[str, ...]  # of `WORDS` words
NEARLY_ALL = 0.8  # share of a set's problems that have an instruction, where there is one
PUNCTUATION = ".,:;!?\"'()[]"  # around a word it says nothing
SPLIT = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
FEW = 5  # problems that share it at least; what fewer share may be one problem in several versions


def features(domain: Domain, *sets: Sequence[str]) -> Callable[[str], frozenset[str]]:
    """Returns a function that gives the domain's shingles of a problem, without the instruction around it.

    Runs of words that nearly all problems of a set have say nothing of a problem: two problems are as much alike with
    an instruction as without it, also where only one of them has it. A domain with shingles of its own is given whole
    problems. A text that is no problem of the domain has no shingles: nothing is like that one.

    Args:
        sets: what is compared; an instruction is what the problems of a set share, or those of all together.
    """
    pattern = re.compile(domain.problem_pattern)
    in_words = type(domain).shingles is Domain.shingles
    compared = [*sets, [text for texts in sets for text in texts]] if in_words else []
    instruction = set[Run]().union(*(_shared(map(domain.task, texts)) for texts in compared))

    def bare(text: str) -> str:
        words = _words(text)
        told = {place + step for place, run in enumerate(_runs(text)) if run in instruction for step in range(WORDS)}
        return " ".join(word for place, word in enumerate(words) if place not in told) or text

    def found(text: str) -> frozenset[str]:
        if not pattern.match(text):
            return frozenset()
        with explained(f"{type(domain).__name__}.shingles, of {text!r:.60},"):
            return domain.shingles(bare(domain.task(text)) if in_words else text)

    return found


def _shared(texts: Iterable[str]) -> set[Run]:
    """Returns the runs of words that nearly all of a set's different texts have."""
    different = set(texts)
    least = max(FEW, NEARLY_ALL * len(different))
    counts = Counter(run for text in different for run in set(_runs(text)))
    return {run for run, count in counts.items() if count >= least}


def _words(text: str) -> list[str]:
    """Splits a text where it has spaces, and around each character of a script without spaces."""
    return SPLIT.findall(text.casefold())


def _runs(text: str) -> Iterable[Run]:
    """Returns the runs of a text's words, without regard to letter case and to the punctuation around a word."""
    words = [word.strip(PUNCTUATION) for word in _words(text)]
    return zip(*(words[first:] for first in range(WORDS)), strict=False)


def nearest(
    texts: Sequence[str], others: Sequence[str], features: Callable[[str], frozenset[str]], similarity: float
) -> list[int | None]:
    """Returns for each text the index of the other text that is most like it, if they are near-duplicates.

    Likeness is the Jaccard index |A & B| / |A | B| of their features, exactly: an inverted index counts the shared
    features of all pairs that share any. Features of the same texts are counted as one, so that what thousands of texts
    have in common, such as an instruction, costs no more than one feature. Of several texts alike the first counts.
    """
    wanted = [features(text) for text in texts]
    known = frozenset[str]().union(*wanted)
    owners: dict[str, list[int]] = defaultdict(list)
    sizes = np.zeros(len(others), np.int64)
    for index, other in enumerate(others):
        found = features(other)
        sizes[index] = len(found)
        for feature in found & known:
            owners[feature].append(index)
    kinds: dict[tuple[int, ...], int] = {}  # the texts that share some features -> a number for these features
    kind_of = {feature: kinds.setdefault(tuple(indices), len(kinds)) for feature, indices in owners.items()}
    members = [np.array(indices) for indices in kinds]
    result: list[int | None] = []
    for own in wanted:
        best = None
        if counts := Counter(kind_of[feature] for feature in own if feature in kind_of):
            shared = np.zeros(len(others), np.int64)
            for kind, count in counts.items():
                shared[members[kind]] += count
            jaccard = shared / (len(own) + sizes - shared)
            first = int(jaccard.argmax())
            best = first if jaccard[first] >= similarity else None
        result.append(best)
    return result
