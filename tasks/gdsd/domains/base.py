"""What every domain provides: problems, the prompt, and a verdict on an answer."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, NamedTuple, Self, TypeVar

from pydantic import Field

from tasks.gdsd.domains import answers
from tasks.gdsd.domains.drawing import Grid
from tasks.gdsd.strict import Config

SLACK = 1e-6  # by which rounding may carry a part of a reward out of its range, 0 to 1


class DomainConfig(Config):
    """Base of the domains' configurations; `name` says which domain it is."""

    name: str
    weights: dict[str, Annotated[float, Field(ge=-1000, le=1000)]] = Field(
        {},
        description="weights of the reward's parts; empty for the domain's own, and a part that is left out counts "
        "nothing",
    )

    def rule(self) -> Self:
        """Returns what decides problems and verdicts: the same, where other fields have their defaults."""
        return self


class Problem(NamedTuple):
    """A problem as it stands in the tables."""

    problem: str  # what the verifier reads, and what the prompt is made of
    reference: str  # the right answer, or what an answer is checked with; never shown to the policy


class Answer(NamedTuple):
    """An answer to be judged, with its problem."""

    problem: str
    reference: str
    text: str  # hostile: anything a policy can write


@dataclass(frozen=True)
class Verdict:
    """What a verifier says of one answer.

    A part that cannot be judged is None, which is never the same as zero: the answer then has no reward and leaves its
    group's baseline. An answer that exceeds a limit is judged: it is wrong.
    """

    parts: Mapping[str, float | None]  # one entry for each of `Domain.parts`, each in [0, 1]
    solved: bool | None
    # What the verifier saw, for readers: which test failed, which value came out. It may quote the answer. It is no
    # part of the judgement: verdicts that differ in it alone are equal.
    remark: str | None = field(default=None, compare=False)


Verdicts = TypeVar("Verdicts")


def shown(verdicts: Iterable[Verdicts], number: int) -> Iterable[Verdicts]:
    """Passes verdicts on, with a progress bar where they take more than 5 s on a terminal."""
    from tqdm import tqdm

    bar: Iterable[Verdicts] = tqdm(
        verdicts, total=number, desc="verifying", unit="answer", disable=None, leave=False, delay=5
    )
    return bar


class Remedies(NamedTuple):
    """What helps where the check of verdicts complains, in the words of whoever can change it: by default, an author.

    A domain that is chosen by its configuration alone has words of its own.
    """

    right: str = "method `solution`"  # how a right answer is named
    unsolved: str = "correct `verify`, or `solution`"
    varying: str = "draw nothing at random and remember no answers, or set `varies = True` where a judge cannot help it"
    unrewarded: str = (
        "See whether `verify` forgets to return a value; a wrong answer has 0.0, and only what cannot be judged None"
    )
    slow: str = "`verify_all` gets all answers at once and can work on several at a time"


class Domain(ABC):
    """A kind of problem: makes or reads problems, phrases the prompt, and verifies an answer.

    Made from its configuration; it holds no state beyond that, so two of the same configuration give the same verdicts.
    """

    parts: ClassVar[Mapping[str, float]]  # the reward's parts and their default weights
    columns: ClassVar[Sequence[str]]  # what `read` takes of a row of a data set
    optional: ClassVar[Sequence[str]] = ()  # those of them without which a row is still a problem
    example: ClassVar[Answer]  # a right answer without its tags or fence, for the documents and the tests
    generates: ClassVar[bool] = False  # whether `problems` makes problems
    remedies: ClassVar[Remedies] = Remedies()
    reference_is_answer: bool = True  # whether a policy could write the reference; else it serves to judge
    problem_pattern: ClassVar[str] = r"(?s)^.*\S.*$"  # what every problem in a table must match
    reference_pattern: ClassVar[str] = r"(?s)^.*\S.*$"
    problem_form: ClassVar[str] = ""  # the pattern in words, for whoever has to correct a file
    reference_form: ClassVar[str] = ""
    # Of a domain of one's own: files below its module's folder that it reads. An edit of one counts like one of code.
    files: ClassVar[Sequence[str]] = ()
    fills_length: bool = False  # whether answers fill a completion, so that one without an end is not cut off
    solves: bool = True  # whether some answers solve a problem; else none does, and the reward alone tells them apart
    varies: bool = False  # whether verdicts may differ when they are asked for again, as those of a judge that samples

    def problems(self, seed: int) -> Iterator[Problem]:
        """Yields distinct problems, deterministic by the seed.

        Raises:
            DataError: there are no more.
        """
        raise NotImplementedError(f"{type(self).__name__} does not generate problems; it reads them")

    @abstractmethod
    def read(self, row: Mapping[str, object]) -> Problem:
        """Makes a problem out of a data set's row, which has the keys `columns`; only an optional one may be None.

        Raises:
            DataError: the row does not hold a problem of this domain.
        """

    @abstractmethod
    def phrase(self, problem: str) -> str:
        """Returns the prompt that the policy reads, without chat template."""

    @abstractmethod
    def fault(self, problem: str, reference: str) -> str | None:
        """Says what is wrong with a problem of a table, or None."""

    @abstractmethod
    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        """Verifies an answer; never raises because of one.

        Raises:
            SandboxError: answers have to be run, and this system cannot do so.
        """

    def require(self) -> None:  # noqa: B027  # most need nothing
        """Refuses a machine on which answers cannot be judged, before anything is computed for that.

        Raises:
            SandboxError: answers have to be run, and this system cannot do so.
        """

    def verify_all(self, items: Sequence[Answer]) -> list[Verdict]:
        """Verifies answers in order; a domain whose verdicts are slow works on several at a time."""
        return [self._verified(item) for item in shown(items, len(items))]

    def _verified(self, item: Answer) -> Verdict:
        try:
            return self.verify(*item)
        except (Exception, SystemExit) as error:
            error.add_note(f"on the answer {item.text!r:.60} to {item.problem!r:.60}")
            raise

    def solution(self, problem: str, reference: str) -> str | None:
        """Returns a right answer with its tags or fence, as a policy should write it; None where that is not known.

        By it the check of a domain's verdicts sees that a right answer is solved; no policy is trained on it.
        """
        return None

    def draw(self, problem: str, reference: str, answer: str | None) -> Grid | None:
        """Says how the report draws an answer, or the reference where `answer` is None; None: as text alone.

        Nothing of an answer may be run for it. What an answer did when it was verified belongs into `Verdict.remark`.
        """
        return None

    def task(self, problem: str) -> str:
        """Returns what a problem asks for: by these words problems are compared that have no shingles of their own."""
        return problem

    def shingles(self, problem: str) -> frozenset[str]:
        """Returns the features by which two problems are alike: near-duplicates share most of them."""
        return answers.shingles(problem)
