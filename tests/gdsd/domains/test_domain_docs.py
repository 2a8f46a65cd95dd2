"""The pages of the domains: their prompts are the domain's prompts, and their answers are right.

A page has one fenced block `problem` and one `reference`, then pairs of `prompt` and `answer`. Behind the word may
stand options of the domain as JSON, as in ```prompt {"format": "tagged"}. The options' table comes before `## Reward`.
"""

import importlib
import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from tasks.gdsd.domains import answers
from tasks.gdsd.domains.base import Domain, DomainConfig

FOLDER = Path(__file__).parents[3] / "docs" / "domains"
DOMAINS = ["sudoku", "countdown", "gsm8k", "math", "code"]  # the example of custom has a test of its own
BLOCK = re.compile(r"^(?P<fence>`{3,})(?P<kind>\w+)(?P<options>.*)\n(?P<text>(?s:.*?))\n(?P=fence)$", re.MULTILINE)


class Block(NamedTuple):
    kind: str
    options: str
    text: str


def blocks(page: Path) -> list[Block]:
    found = [Block(match["kind"], match["options"], match["text"]) for match in BLOCK.finditer(page.read_text())]
    return [block for block in found if block.kind in ("problem", "reference", "prompt", "answer")]


def domain(name: str, options: str) -> Domain:
    """The domain of a page: class `Math` with `MathConfig` of the module `math`."""
    module = vars(importlib.import_module(f"tasks.gdsd.domains.{name}"))
    kind, config = module[name.capitalize()], module[f"{name.capitalize()}Config"]
    assert issubclass(kind, Domain) and issubclass(config, DomainConfig)
    return kind(config.model_validate(json.loads(options or "{}")))


@pytest.mark.parametrize("name", DOMAINS)
def test_prompts_and_answers_are_as_written(name: str) -> None:
    """If it fails, the page shows a prompt that no policy sees, or an answer that is not right."""
    problem, reference, *pairs = blocks(FOLDER / f"{name}.md")
    assert (problem.kind, reference.kind) == ("problem", "reference")
    assert pairs and [block.kind for block in pairs] == ["prompt", "answer"] * (len(pairs) // 2)
    for prompt, answer in zip(pairs[::2], pairs[1::2], strict=True):
        assert prompt.options == answer.options
        judge = domain(name, prompt.options)
        assert judge.fault(problem.text, reference.text) is None
        assert judge.phrase(problem.text) == prompt.text
        verdict = judge.verify(problem.text, reference.text, answer.text)
        assert verdict.solved is True and set(verdict.parts.values()) == {1.0}


@pytest.mark.parametrize("name", DOMAINS)
def test_parts_options_and_columns_are_as_written(name: str) -> None:
    """If it fails, the page names weights, options or columns that the domain does not have, or leaves some out."""
    judge, text = domain(name, ""), (FOLDER / f"{name}.md").read_text()
    for part, weight in judge.parts.items():
        assert f"| `{part}` | {weight} |" in text, part
    written: dict[str, str] = {}
    for row in text.partition("## Reward")[0].splitlines():
        if row.startswith("| `"):
            names, values = (cell.replace("`", "").split(",") for cell in row.split("|")[1:3])
            written |= {option.strip(): value.strip() for option, value in zip(names, values, strict=True)}
    fields = vars(importlib.import_module(f"tasks.gdsd.domains.{name}"))[f"{name.capitalize()}Config"].model_fields
    assert written == {key: str(field.default) for key, field in fields.items() if key not in ("name", "weights")}
    for column in judge.columns:
        assert f"`{column}`" in text, column


@pytest.mark.parametrize("name", DOMAINS)
def test_the_examples_of_the_domains_are_right(name: str) -> None:
    """If it fails, what the tests and documents take for a right answer is none."""
    judge = domain(name, '{"isolation": "none"}' if name == "code" else "")
    example = judge.example
    assert judge.fault(example.problem, example.reference) is None
    forms = ["{}", "<answer>{}</answer>", "```python\n{}```"]
    assert any(judge.verify(*example._replace(text=form.format(example.text))).solved for form in forms)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sudoku", "{}"),
        ("sudoku", '{"format": "tagged"}'),
        ("countdown", "{}"),
        ("countdown", '{"format": "tagged"}'),
        ("gsm8k", "{}"),
        ("math", "{}"),
    ],
)
def test_a_domain_knows_a_right_answer(name: str, options: str) -> None:
    """If it fails, the check of a sound domain refuses a run, or cannot see that no right answer is solved."""
    judge = domain(name, options)
    problem, reference, _ = judge.example
    solution = judge.solution(problem, reference)
    assert solution is not None
    verdict = judge.verify(problem, reference, solution)
    assert verdict.solved is True and set(verdict.parts.values()) == {1.0}


@pytest.mark.parametrize("name", ["gsm8k", "math"])
def test_the_prompt_shows_well_formed_examples(name: str) -> None:
    """If it fails, the prompt teaches a form or a result that would score nothing."""
    judge = domain(name, '{"shots": 4}')
    instruction, *examples, last = judge.phrase("How many?").split("\nProblem: ")
    assert last == "How many?" and domain(name, "").phrase("How many?").startswith(instruction)
    wanted: list[answers.Example] = vars(importlib.import_module(f"tasks.gdsd.domains.{name}"))["EXAMPLES"]
    for example, shown in zip(wanted, examples, strict=True):
        problem, _, answer = shown.partition("\n")
        assert problem == example.problem and answers.well_formed(answer)
        assert judge.verify(problem, example.result, answer).solved and judge.fault(problem, example.result) is None
