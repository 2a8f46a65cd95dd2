"""Near-duplicates: problems of which one is a small change of the other."""

from collections import defaultdict
from collections.abc import Callable, Sequence


def nearest(
    texts: Sequence[str], others: Sequence[str], features: Callable[[str], frozenset[str]], similarity: float
) -> list[int | None]:
    """Returns for each text the index of the other text that is most like it, if they are near-duplicates.

    Likeness is the Jaccard index |A & B| / |A | B| of their features, exactly: an inverted index counts the shared
    features of all pairs that share any, so time grows with the number of such pairs.
    """
    owners: dict[str, list[int]] = defaultdict(list)
    sizes = []
    for index, other in enumerate(others):
        found = features(other)
        sizes.append(len(found))
        for feature in found:
            owners[feature].append(index)
    result: list[int | None] = []
    for text in texts:
        own = features(text)
        shared: dict[int, int] = defaultdict(int)
        for feature in own:
            for index in owners.get(feature, ()):
                shared[index] += 1
        best, nearest_to = 0.0, None
        for index, count in shared.items():
            jaccard = count / (len(own) + sizes[index] - count)
            if jaccard > best:
                best, nearest_to = jaccard, index
        result.append(nearest_to if best >= similarity else None)
    return result
