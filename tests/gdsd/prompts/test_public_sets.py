"""Published sets run as they are, by the recipes' own settings: rows made here, in each set's columns and kinds."""

from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from tasks.gdsd.config.evaluate import GuardConfig
from tasks.gdsd.config.prompts import PromptConfig
from tasks.gdsd.errors import GdsdError
from tasks.gdsd.prompts.problems import (
    check_problems,
    check_supply,
    leave_out_near_duplicates,
    make_prompts,
    make_test,
)
from tasks.gdsd.prompts.quality import check_prompts, check_test
from tests.gdsd.prompts.conftest import write
from tests.gdsd.series import Row

CONFIGS = Path(__file__).parents[3] / "configs"
SPLITS = {"train": 30, "validation": 12, "test": 20}  # rows, where a set has that split


def words(split: str, number: int) -> str:
    """Words of a problem of its own."""
    return " ".join(f"{split}{number}{letter}" for letter in "abcdefghij")


def mbpp(split: str, number: int) -> Row:
    """As google-research-datasets/mbpp, subset full: the tests are a list, and the task has one of them in no word."""
    return {
        "task_id": number,
        "text": f"Write a python function to find the {words(split, number)} of a given list.",
        "code": f"def {split}_{number}(x):\r\n    return x + {number}",
        "test_list": [f"assert {split}_{number}({value}) == {value + number}" for value in (1, 2, 3)],
        "test_setup_code": "",
        "challenge_test_list": [],
    }


def humaneval(split: str, number: int) -> Row:
    """As openai/openai_humaneval: the problem is code to complete."""
    return {
        "task_id": f"HumanEval/{number}",
        "prompt": f'from typing import List\n\n\ndef find(x: List[int]) -> int:\n    """ Find {words(split, number)}.\n'
        f'    >>> find([1])\n    {number}\n    """\n',
        "canonical_solution": f"    return x[0] + {number}\n",
        "test": f"\n\nMETADATA = {{}}\n\n\ndef check(candidate):\n    assert candidate([1]) == {number + 1}\n",
        "entry_point": "find",
    }


def gsm8k(split: str, number: int) -> Row:
    """As openai/gsm8k, subset main: a solution with calculator annotations, and the number behind ####."""
    answer = f"She has {number}+1 = <<{number}+1={number + 1}>>{number + 1} left.\n#### {number + 1}"
    return {"question": f"Natalia sold {words(split, number)} in May. How many are left?", "answer": answer}


def math(split: str, number: int) -> Row:
    """As DigitalLearningGmbH/MATH-lighteval: the answer is the last box of the solution."""
    solution = f"Note that $x = {number}$, so the answer is $\\boxed{{\\frac{{{number}}}{{7}}}}$."
    text = f"Let {words(split, number)} satisfy $x^2 = {number}$. Find $x$."
    return {"problem": text, "level": "Level 4", "type": "Intermediate Algebra", "solution": solution}


def math500(split: str, number: int) -> Row:
    """As HuggingFaceH4/MATH-500: the answer has a column of its own, and the level is a number."""
    row = math(split, number)
    same = {name: row[name] for name in ("problem", "solution")}
    return same | {
        "answer": f"\\frac{{{number}}}{{7}}",
        "subject": "Algebra",
        "level": 4,
        "unique_id": f"t/{number}.json",
    }


MAKERS = {
    "google-research-datasets/mbpp": (mbpp, "text"),
    "openai/openai_humaneval": (humaneval, "prompt"),
    "openai/gsm8k": (gsm8k, "question"),
    "DigitalLearningGmbH/MATH-lighteval": (math, "problem"),
    "HuggingFaceH4/MATH-500": (math500, "problem"),
}
WITHOUT_ENTRY = {"test_list": ["assert (max_height(root)) == 3"], "code": "def max_height(node):\n    return 1"}  # 927
SPOILT = {  # what a set has of rows that cannot be judged
    "google-research-datasets/mbpp": WITHOUT_ENTRY,
    "DigitalLearningGmbH/MATH-lighteval": {"solution": "See the figure."},
}


def published(recipe: str, folder: Path) -> tuple[dict[str, object], dict[str, object]]:
    """The problems of a recipe and of its guards, with files in the place of the hub's sets.

    Each set has the faults of published ones. The test has two equal problems. One row of validation is nearly a
    problem of the test, and one row of training is nearly one of the test, one equal to another, and one not usable.
    """
    written = yaml.safe_load((CONFIGS / f"{recipe}.yaml").read_text())
    prompts, guards = written["prompts"], written.get("judge", {}).get("guards", {})
    made: dict[str, list[Row]] = {}
    for split, count in SPLITS.items():
        if f"{split}_data" in prompts:
            make, _ = MAKERS[prompts[f"{split}_data"]["hub"]]
            made[split] = [make(split, number) for number in range(count)]
    test, train = made["test"], made["train"]
    test[13] = test[4]
    train[5] = train[2]
    for split, copied in (("train", 7), ("validation", 8)):
        if split in made:
            hub = prompts[f"{split}_data"]["hub"]
            name = MAKERS[hub][1]
            tests = {key: test[copied][key] for key in ("code", "test_list") if key in test[copied]}
            made[split][3] |= tests | {name: f"Now {test[copied][name]}"}
            made[split][9] |= SPOILT.get(hub, {})
    for split, rows in made.items():
        prompts[f"{split}_data"] = write(rows, folder / f"{split}.parquet")
    for name, guard in guards.items():
        make, _ = MAKERS[guard["test_data"]["hub"]]
        guard["test_data"] = write([make("guard", number) for number in range(8)], folder / f"{name}.parquet")
    return prompts | {"validation_size": 12}, guards


def prepared(config: PromptConfig) -> tuple[dict[str, pa.Table], list[str], list[str]]:
    """The tables as `prepare_prompts` makes them, what was unusable and what is nearly elsewhere."""
    unusable: list[str] = []
    made, near = leave_out_near_duplicates(make_prompts(config, unusable), config)
    check_supply(made, [*unusable, *near], 8)
    check_prompts(made, config).require()
    check_problems(config, made)
    return made, unusable, near


@pytest.mark.parametrize("recipe", ["llada_code", "llada_gsm8k", "llada_math"])
def test_a_published_set_runs_as_it_is(recipe: str, tmp_path: Path) -> None:
    """If it fails, a recipe cannot start on the set that it names: MBPP's official test has two equal problems."""
    prompts, guards = published(recipe, tmp_path)
    config = PromptConfig.model_validate(prompts)
    made, unusable, near = prepared(config)
    assert made["test"].num_rows == 19 and "test-000013" not in made["test"]["id"].to_pylist()
    assert "test problem 'test-000013' is the same as 'test-000004'" in unusable
    assert "train problem 'train-000005' is the same as 'train-000002'" in unusable
    assert any(text.endswith("problem 'train-000003' is nearly 'test-000007'") for text in near)  # it may be set aside
    own = config.validation_data is not None
    assert not own or "validation problem 'validation-000003' is nearly 'test-000008'" in near
    spoilt = {"llada_code": 2, "llada_math": 1, "llada_gsm8k": 0}[recipe]
    assert (len(near), len(unusable)) == (2 if own else 1, 2 + spoilt)
    read = 30 + 12 * own
    assert made["train"].num_rows + made["validation"].num_rows == read - len(near) - 1 - spoilt
    for name, guard in guards.items():
        problems = make_test(GuardConfig.model_validate(guard))
        assert problems.num_rows == 8, name
        trained_on = {row["id"]: row["problem"] for row in made["train"].to_pylist()}
        check_test(problems, config, trained_on, config.similarity).require()
        check_problems(config, {"test": problems})


@pytest.mark.parametrize("recipe", ["llada_code", "llada_gsm8k", "llada_math"])
def test_the_same_set_is_refused_where_nothing_may_be_left_out(recipe: str, tmp_path: Path) -> None:
    """If it fails, a run drops problems of a set without being told to."""
    prompts, _ = published(recipe, tmp_path)
    for change in ({"unusable": "refuse"}, {"near_duplicates": "refuse"}):
        with pytest.raises(GdsdError):
            prepared(PromptConfig.model_validate(prompts | change))
