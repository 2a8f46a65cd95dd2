"""Near-duplicates: problems of which one is a small change of the other."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from tasks.gdsd.domains import Domain
from tasks.gdsd.domains.answers import WORDS

NEARLY_ALL = 0.8  # share of the problems that have an instruction, where there is one
FEW = 5  # problems that share it at least; what fewer share may be one problem in several versions


def features(domain: Domain, problems: Iterable[str] = ()) -> Callable[[str], frozenset[str]]:
    """Returns a function that gives the domain's shingles of a problem, without the instruction around it.

    The words that nearly all problems begin or end with say nothing of a problem: two problems are as much alike with
    an instruction as without it. A domain with shingles of its own is given whole problems. A text that is no problem
    of the domain has no shingles: nothing is like that one.

    Args:
        problems: what is compared; the instruction is what they share.
    """
    pattern = re.compile(domain.problem_pattern)
    words = [text.casefold().split() for text in set(problems)] if type(domain).shingles is Domain.shingles else []
    before = _shared_beginning(words)
    after = _shared_beginning([each[len(before) :][::-1] for each in words])[::-1]

    def bare(text: str) -> str:
        words = text.casefold().split()
        if words[: len(before)] == before:
            words = words[len(before) :]
        if words[len(words) - len(after) :] == after:
            words = words[: len(words) - len(after)]
        return " ".join(words) or text

    return lambda text: domain.shingles(bare(text) if before or after else text) if pattern.match(text) else frozenset()


def _shared_beginning(texts: Sequence[Sequence[str]]) -> list[str]:
    """Returns the longest beginning that nearly all of some different texts share, if it is as long as a shingle."""
    least = max(FEW, NEARLY_ALL * len(texts))
    shared: list[str] = []
    while len(texts) >= least:
        place = len(shared)
        following = Counter(text[place] for text in texts if len(text) > place)
        word, count = following.most_common(1)[0] if following else ("", 0)
        if count < least:
            break
        shared.append(word)
        texts = [text for text in texts if len(text) > place and text[place] == word]
    return shared if len(shared) >= WORDS else []


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
