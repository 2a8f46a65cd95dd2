"""A domain's verdicts on answers of which much is known beforehand: what is wrong with a reward before anything trains.

A reward that nobody could train on has a fault, whose words name a problem and an answer. What only looks wrong is a
warning.
"""

import io
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Literal, NamedTuple, get_args

import pyarrow as pa

from tasks.gdsd.domains import Answer, Domain, DomainChoice, Verdict, make
from tasks.gdsd.domains.base import Remedies
from tasks.gdsd.errors import DataError, Interrupted, SilentServiceError
from tasks.gdsd.modules.own import raised_at
from tasks.gdsd.prompts.expectations import shorten
from tasks.gdsd.reward.rewards import JUDGED, weigh
from tasks.gdsd.reward.verdicts import require_verdicts

Kind = Literal["right", "empty", "junk", "over-long", "repeated"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WRONG: tuple[Kind, ...] = ("empty", "junk", "over-long")
# It has every form in which some domain looks for an answer, so that what reads answers, or runs them, is at work.
JUNK = "?! \x00 \U0001d518 {#,; <answer> \\boxed{#,; )]} </answer>\n```python\n)( import\n```\n"
OVER_LONG = "all work and no play " * 1000  # 21,000 characters, more than any completion of a recipe
ROUNDING = 0.01  # by which a part may differ when it is asked for again; networks round by where in a batch a text is
ROUND_SECONDS = 120.0  # of a round's verdicts, from which a reward is called slow


class Probe(NamedTuple):
    """An answer, and what the domain says of it."""

    kind: Kind
    answer: Answer
    verdict: Verdict
    reward: float | None


class Warned(NamedTuple):
    """Something that looks wrong."""

    name: str  # in a few words, for lists
    said: str


class Probed(NamedTuple):
    """What the check of some problems found."""

    problems: str  # which they are: train, validation, test or a guard
    domain: str
    prompts: dict[str, str]  # by the problems' ids
    probes: dict[Kind, list[Probe]]  # each kind has one for each problem, in the order of the prompts
    seconds: dict[Kind, float]  # per verdict
    right: str = ""  # how the domain would name a right answer
    fault: str | None = None  # for which nothing may be trained
    warnings: Sequence[Warned] = ()

    def require(self) -> None:
        """Refuses a reward with a fault.

        Raises:
            DataError: it has one.
        """
        if self.fault is not None:
            raise DataError(self.fault)


def probe(
    name: str,
    choice: DomainChoice,
    problems: pa.Table,  # of `tables.PROMPTS`
    *,
    number: int,
    completions: int | None = None,
    kinds: Sequence[Kind] = KINDS,
) -> Probed:
    """Asks for verdicts on answers of each kind to some of the problems, and again in another order.

    Args:
        name: which problems these are, in words.
        choice: their domain.
        problems: all of them.
        number: how many of them, spread over the table, are looked at.
        completions: of a round; None where it is not known, and then no verdict is called slow.
        kinds: of answers. A right one is left out where the domain does not know any.

    Raises:
        DataError: the domain raised an error, or its verdicts are not what it declares.
        SandboxError: answers have to be run, and this system cannot do so.
        ServiceError: a service cannot be used, or is silent on answers of all kinds.
    """
    domain = make(choice)
    rows = problems.take(pa.array(spread(problems.num_rows, number), pa.int64())).to_pylist()
    asked = _answers(domain, choice.name, rows, kinds)
    found = Probed(name, choice.name, {row["id"]: row["prompt"] for row in rows}, {}, {}, domain.remedies.right)
    if not asked:
        return found
    printed, weights = io.StringIO(), choice.weights
    silence: dict[Kind, SilentServiceError] = {}  # a service may well fail on some kind of answer alone
    with redirect_stdout(printed), redirect_stderr(printed):
        for kind, answers in asked.items():
            began = time.perf_counter()
            try:
                verdicts = require_verdicts(domain, answers, choice.name)
            except SilentServiceError as error:
                silence[kind] = error
                verdicts = [Verdict(dict.fromkeys(domain.parts), None, "the service did not answer")] * len(answers)
            found.seconds[kind] = (time.perf_counter() - began) / len(answers)
            found.probes[kind] = [
                Probe(kind, answer, verdict, weigh(verdict.parts, weights))
                for answer, verdict in zip(answers, verdicts, strict=True)
            ]
        if len(silence) == len(asked):
            raise next(iter(silence.values()))
        # By a domain made anew and the other way round, which differs for what draws, counts or remembers.
        answered = [probe for kind, probes in found.probes.items() if kind not in silence for probe in probes]
        again = require_verdicts(make(choice), [probe.answer for probe in answered][::-1], choice.name)[::-1]
    return found._replace(
        fault=_untrainable(found, domain)
        or (None if domain.varies else _unsteady(found, answered, again, domain.remedies)),
        warnings=[
            *_unrewarded(found, weights, silence, domain.remedies),
            *_warnings(found),
            *_costs(found, completions, domain.remedies),
            *_noise(printed.getvalue(), found),
        ],
    )


def spread(rows: int, number: int) -> list[int]:
    """Returns at most so many rows of a table, the first and others at equal distances."""
    return [row * rows // min(rows, number) for row in range(min(rows, number))]


def _answers(
    domain: Domain, name: str, rows: Sequence[Mapping[str, str]], kinds: Sequence[Kind]
) -> dict[Kind, list[Answer]]:
    """Returns the answers of each kind, one to each problem; no kind of which a problem has none."""
    found: dict[Kind, list[Answer]] = {}
    for row in rows:
        right = _solution(domain, name, row["problem"], row["reference"])
        texts: dict[Kind, str | None] = {
            "right": right,
            "empty": "",
            "junk": JUNK,
            "over-long": OVER_LONG,
            "repeated": "\n".join(2 * [row["prompt"] if right is None else right]),
        }
        for kind in kinds:
            if (text := texts[kind]) is not None:
                found.setdefault(kind, []).append(Answer(row["problem"], row["reference"], text))
    return {kind: answers for kind, answers in found.items() if len(answers) == len(rows)}


def _solution(domain: Domain, name: str, problem: str, reference: str) -> str | None:
    """Returns the right answer that a domain names, which may be a user's own code."""
    try:
        found: object = domain.solution(problem, reference)
    except Interrupted:
        raise
    except (Exception, SystemExit) as error:
        raise DataError(
            f"domain {name!r}: solution raised {type(error).__name__}: {error!s:.200} on the problem "
            f"{problem!r:.60}{raised_at(error)}; it must return a right answer, or None where none is known"
        ) from error
    if found is not None and not isinstance(found, str):
        raise DataError(
            f"domain {name!r}: solution gave {found!r:.60} on the problem {problem!r:.60}; wanted is a text, or None "
            "where no right answer is known"
        )
    return found


def _untrainable(found: Probed, domain: Domain) -> str | None:
    """Says why no policy could be trained on the verdicts, or be judged by them; None where one could."""
    every = [probe for probes in found.probes.values() for probe in probes]
    if all(probe.reward is None for probe in every):
        return _fault(
            found,
            f"gives none of {len(every)} answers a reward",
            every[0],
            "for some answers at least a number for each part that has weight",
        )
    if all(probe.verdict.solved is None for probe in every):
        return _fault(
            found,
            f"says of none of {len(every)} answers whether it is right",
            every[0],
            "for some answers at least solved True or False, since an evaluation counts no others",
        )
    right = _known(found)
    if domain.solves and right and not any(probe.verdict.solved for probe in right):
        return _fault(
            found,
            f"takes none of {len(right)} right answers for one",
            right[0],
            f"solved=True; {domain.remedies.unsolved}",
        )
    return None


def _unsteady(found: Probed, answered: Sequence[Probe], again: Sequence[Verdict], remedies: Remedies) -> str | None:
    """Names an answer that got another verdict when it was judged again; no verdict is not another one."""
    for first, second in zip(answered, again, strict=True):
        if _differs(first.verdict, second):
            return _fault(
                found,
                "has two verdicts on one answer",
                first,
                f"the same one, since results are kept and policies compared by it; {remedies.varying}",
                f", and when asked again {_said(second)}",
            )
    return None


def _differs(first: Verdict, second: Verdict) -> bool:
    pairs: list[tuple[float | None, float | None]] = [(first.solved, second.solved)]
    pairs += [(value, second.parts[part]) for part, value in first.parts.items()]
    return any(one is not None and other is not None and abs(one - other) > ROUNDING for one, other in pairs)


def _fault(found: Probed, what: str, probe: Probe, wanted: str, more: str = "") -> str:
    answer = probe.answer
    return (
        f"domain {found.domain!r} {what}, such as {answer.text!r:.60} to the problem {answer.problem!r:.60} "
        f"({found.problems}): it says {_said(probe.verdict)}{more}; wanted is {wanted}"
    )


def _said(verdict: Verdict) -> str:
    parts = (f"{part} {'None' if value is None else f'{value:.3g}'}" for part, value in verdict.parts.items())
    remark = f" ({verdict.remark!r:.200})" if verdict.remark else ""
    return f"solved {verdict.solved}, {', '.join(parts)}{remark}"


def _known(found: Probed) -> list[Probe]:
    """Returns the right answers of which the domain says whether they are right."""
    return [probe for probe in found.probes.get("right", []) if probe.verdict.solved is not None]


def _unrewarded(
    found: Probed, weights: Mapping[str, float], silence: Mapping[Kind, SilentServiceError], remedies: Remedies
) -> Iterator[Warned]:
    """Says which answers have no reward: those of a silent service, other kinds though right ones have, or many."""
    yield from _silent(silence)
    heard = {kind: probes for kind, probes in found.probes.items() if kind not in silence}
    kinds = [kind for kind, probes in heard.items() if all(probe.reward is None for probe in probes)]
    if kinds and any(probe.reward is not None for probe in found.probes.get("right", [])):
        missing = [probe for kind in kinds for probe in heard.pop(kind)]
        named = [
            part
            for part, weight in weights.items()
            if weight and any(probe.verdict.parts[part] is None for probe in missing)
        ]
        yield Warned(
            "wrong answers without a reward",
            f"right answers have a reward, but none of {len(missing)} answers that are {', '.join(kinds)} has one, "
            f"since the part {', '.join(named)} is None{_remark(missing)}; training and the mean reward leave these "
            f"out. {remedies.unrewarded}",
        )
    # Not by what is longer than a policy writes, which a service may well refuse.
    usual = [probe for kind, probes in heard.items() if kind != "over-long" for probe in probes]
    lost = [probe for probe in usual if probe.reward is None]
    if len(usual) - len(lost) < JUDGED * len(usual):
        yield Warned(
            "answers without a reward",
            f"{len(lost)} of {len(usual)} answers have no reward{_remark(lost)}; a policy learns nothing from them",
        )


def _remark(probes: Sequence[Probe]) -> str:
    said = next((probe.verdict.remark for probe in probes if probe.verdict.remark), None)
    return "" if said is None else f"; of one the domain says: {said!r:.300}"


def _silent(silence: Mapping[Kind, SilentServiceError]) -> Iterator[Warned]:
    """Says which answers a service that answers others was silent on."""
    for kind, error in silence.items():
        yield Warned(
            f"{kind} answers not judged",
            f"the service does not answer where an answer is {kind}; such answers of a round will have no reward: "
            f"{error!s:.300}",
        )


def _warnings(found: Probed) -> Iterator[Warned]:
    """Yields what of the verdicts looks wrong."""
    right = _known(found)
    if 0 < len(unsolved := [probe for probe in right if not probe.verdict.solved]) < len(right):  # all are a fault
        text, problem = unsolved[0].answer.text, unsolved[0].answer.problem
        yield Warned(
            "right answers not solved",
            f"{len(unsolved)} of {len(right)} right answers are not solved, such as {text!r:.60} to {problem!r:.60}",
        )
    for kind in WRONG:
        if solved := [probe for probe in found.probes.get(kind, []) if probe.verdict.solved]:
            total, problem = len(found.probes[kind]), solved[0].answer.problem
            yield Warned(
                f"{kind} answers solved",
                f"{len(solved)} of {total} answers that are {kind} are solved, such as that to {problem!r:.60}",
            )
    means = {
        kind: statistics.fmean(rewards)
        for kind, probes in found.probes.items()
        if (rewards := [probe.reward for probe in probes if probe.reward is not None])
    }
    groups = zip(*found.probes.values(), strict=True)  # the answers to each problem
    alike = all(len({probe.reward for probe in group} - {None}) < 2 for group in groups)
    # Where no right answer is known, all of these may well be worth nothing.
    if len(means) > 1 and alike and ("right" in means or any(means.values())):
        yield Warned(
            "reward always the same",
            f"all answers to a problem have one reward, {next(iter(means.values())):.3g} in the mean, whatever they "
            "are; such a group teaches nothing",
        )
    elif "right" in means:
        for kind in WRONG:
            if kind in means and means[kind] >= means["right"]:
                yield Warned(
                    f"{kind} answers as good as right ones",
                    f"an answer that is {kind} has a reward of {means[kind]:.3g} in the mean, and a right one "
                    f"{means['right']:.3g}; training goes where the reward is",
                )


def _costs(found: Probed, completions: int | None, remedies: Remedies) -> Iterator[Warned]:
    """Says what a round's verdicts would cost, where that is much."""
    # Not by what was asked first, which may have loaded or started things, nor by what is longer than a policy writes.
    counted = [found.seconds[kind] for kind in ("junk", "repeated") if kind in found.seconds]
    if completions is None or not counted or (cost := max(counted) * completions) <= ROUND_SECONDS:
        return
    yield Warned(
        "slow verdicts",
        f"a verdict takes {max(counted):.2g} s, so that the {completions} of a round take {cost / 60:.1f} minutes; "
        f"above {ROUND_SECONDS:.0f} s a round look whether it is worth it: {remedies.slow}",
    )


def _noise(printed: str, found: Probed) -> Iterator[Warned]:
    """Says what a domain prints, which each round would write again for each answer."""
    if printed.strip() and len(found.probes) > 1:  # or it is said of other problems of the domain already
        verdicts = 2 * sum(map(len, found.probes.values()))
        yield Warned(
            "prints",
            f"it prints while it verifies, {len(printed)} characters for {verdicts} answers, beginning with "
            f"{shorten(printed.strip().splitlines()[0], 60)!r}; use a logger, or the verdict's `remark`",
        )
