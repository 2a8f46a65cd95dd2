"""Near-duplicates: problems of which one is a small change of the other."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from tasks.gdsd.domains import Domain


def features(domain: Domain) -> Callable[[str], frozenset[str]]:
    """Returns the domain's shingles, and none for a text that is no problem of it: nothing is like that one."""
    pattern = re.compile(domain.problem_pattern)
    return lambda text: domain.shingles(text) if pattern.match(text) else frozenset()


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
