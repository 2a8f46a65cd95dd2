"""A domain of a user's own: the documented example as it stands, and what is refused."""

import importlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pytest
import yaml

from tasks.gdsd import tables
from tasks.gdsd.config import loading
from tasks.gdsd.config.prompts import PromptConfig
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.domains import Answer, DomainChoice, make, require_as_imported
from tasks.gdsd.domains import custom as custom_domain
from tasks.gdsd.errors import ConfigError, DataError, Interrupted
from tasks.gdsd.modules import own
from tasks.gdsd.prompts import problems
from tasks.gdsd.prompts.quality import check_prompts
from tasks.gdsd.reward import probes, rewards, verdicts
from tasks.gdsd.reward.quality import check_rewarded
from tests.gdsd import series
from tests.gdsd.prompts.conftest import write
from tests.workflows.conftest import run_in_process

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/domains/custom.md").read_text()
PATH = "my_package.sorting:Sorting"


def block(language: str, example: int = 0) -> str:
    """The fenced block of a language that an example in the page has."""
    first, second = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return (first, second)[example]


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]
    custom_domain._imported.clear()
    importlib.invalidate_caches()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The example's package, importable."""
    folder = tmp_path / "my_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "sorting.py").write_text(block("python"))
    monkeypatch.setattr(own, "_folders", [])
    monkeypatch.setattr(own, "_configuration", None)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # an edit within a second keeps the time of the file
    forget()
    yield folder
    forget()


def custom(path: str = PATH, **fields: object) -> DomainChoice:
    return DomainChoice.model_validate_json(json.dumps({"name": "custom", "path": path} | fields))


def rollouts(made: pa.Table, answer: Callable[[str, int], str]) -> pa.Table:
    """Four completions of each problem."""
    rows = [
        series.rollout(
            prompt_id=row["id"],
            sample=sample,
            problem=row["problem"],
            reference=row["reference"],
            completion=answer(row["reference"], sample),
        )
        for row in made.to_pylist()
        for sample in range(4)
    ]
    return pa.Table.from_pylist(rows, tables.ROLLOUTS)


# The documented example


def test_the_example_goes_from_problems_to_advantages(package: Path) -> None:
    """If it fails, who follows the page gets an error."""
    written = yaml.safe_load(block("yaml"))
    sizes = {"train_size": 192, "validation_size": 8, "test_size": 8}
    config = TrainConfig.model_validate_json(json.dumps(written | {"prompts": written["prompts"] | sizes}))
    made = problems.make_prompts(config.prompts)
    check_prompts(made, config.prompts).require()
    problems.check_problems(config.prompts, made)
    assert {split: table.num_rows for split, table in made.items()} == {"train": 192, "validation": 8, "test": 8}
    choice = config.prompts.domain
    assert (choice.name, choice.weights) == (PATH, {"places": 0.9, "length": 0.1})
    answers = rollouts(made["train"].slice(0, 8), lambda right, sample: right if sample else "no")
    rewarded = rewards.reward(answers, choice, 4, scale_by_std=False)
    check_rewarded(rewarded, 4, choice).require()
    assert rewarded["reward"].to_pylist()[:4] == pytest.approx([0.0, 1.0, 1.0, 1.0])
    assert rewarded["reward_places"].to_pylist()[:2] == [0.0, 1.0]


def test_the_example_is_a_sound_domain(package: Path) -> None:
    """If it fails, the page teaches a mistake."""
    domain = make(custom(options={"digits": 4}))
    example = domain.example
    assert domain.verify(*example).solved and domain.fault(example.problem, example.reference) is None
    grid = domain.draw(example.problem, example.reference, "01243")
    assert grid is not None and [cell.mark for cell in grid.rows[0]] == ["right"] * 3 + ["wrong"] * 2
    assert [cell.place for cell in grid.rows[0]] == [0, 1, 2, 3, 4]
    drawn = list(islice(domain.problems(0), 200))
    assert len({problem for problem, _ in drawn}) == 200 and drawn == list(islice(domain.problems(0), 200))
    assert drawn != list(islice(domain.problems(1), 200))
    assert all(domain.fault(*problem) is None for problem in drawn)
    for hostile in ("", "\0" * 5, "9" * 10_000, "\ud800"):
        assert domain.verify(*drawn[0], hostile).parts["places"] == 0
    with pytest.raises(DataError, match="this draws at most 50 problems"):
        list(make(custom(options={"digits": 2})).problems(0))


def test_the_example_that_reads_a_file_works(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, who follows the page with a file and answers of a free length gets an error, or a wrong reward."""
    home = package.parent
    monkeypatch.chdir(home)
    monkeypatch.setitem(sys.modules, "vowels", ModuleType("vowels"))  # so that it is forgotten behind the test
    del sys.modules["vowels"]
    (home / "vowels.py").write_text(block("python", 1))
    (home / "words.csv").write_text("word\nCorazón\ncamión\npingüino\nsol\n")
    (home / "more_words.csv").write_text("word\nmurciélago\n")
    config = TrainConfig.model_validate_json(json.dumps(yaml.safe_load(block("yaml", 1))))
    fewer = config.prompts.model_copy(update={"validation_size": 1})
    made = problems.make_prompts(fewer)
    check_prompts(made, fewer).require()
    problems.check_problems(fewer, made)
    assert {split: table.num_rows for split, table in made.items()} == {"train": 3, "validation": 1, "test": 1}
    (asked,) = made["test"].to_pylist()
    assert (asked["prompt"], asked["reference"]) == ("murciélago: ", "uiéao")
    assert len(asked["reference"]) < config.rollout.sampler.length, "there is room for the end"
    looked = probes.probe("train", fewer.domain, made["train"], number=3)
    looked.require()
    assert not looked.warnings and [one.reward for one in looked.probes["right"]] == [1.0] * 3
    domain = make(fewer.domain)
    shares = {"uiéao": 1.0, "uie": 0.4, "uiéaoo": 5 / 6, "": 0.0, "x" * 10_000: 0.0}
    for answer, share in shares.items():
        verdict = domain.verify(asked["problem"], asked["reference"], answer)
        assert verdict.parts["vowels"] == pytest.approx(share) and verdict.solved == (share == 1)
    with pytest.raises(DataError, match="word has no vowel: 'pst'"):
        domain.read({"word": "Pst"})


def test_the_example_is_checked(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, who follows the page does not see what it shows, or the check complains of a sound domain."""
    config = yaml.safe_load(block("yaml"))
    config["prompts"] |= {"train_size": 256}  # which changes none of the first problems
    home = package.parent
    monkeypatch.setenv("PYTHONPATH", str(home))
    done = run_in_process("run", "workflows/gdsd.py", "check", "--config", json.dumps(config), home=home / "home")
    assert done.code == 0 and "no warnings" in done.text, done.text
    assert "train: the policy can read 256 problems; prompts have at most 11 tokens and completions 8," in done.text
    lines = [line.rstrip() for line in done.text.splitlines()]
    (shown,) = re.findall(r"^```\n(problem .*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert shown in "\n".join(lines) + "\n", done.text
    for split, number in (("train", 10), ("validation", 10), ("test", 10)):
        assert f"{PATH}: {number} problems of {split}" in lines
    assert sum(line.startswith("  right") for line in lines) == 10 + 3, "each problem of training, and each table"
    assert not list((home / "home/.flyte/gdsd").glob("policy-*")), "nothing is trained"


@pytest.mark.whole
def test_the_example_trains(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a domain outside the project works in a notebook, but not in the pipeline."""
    config = yaml.safe_load(block("yaml"))
    config["prompts"] |= {"train_size": 16, "validation_size": 8, "test_size": 8}
    config["rollout"] |= {"prompts_per_round": 4, "group_size": 2}
    config |= {"rounds": 1, "policy": {"warm_start": {"steps": 2, "batch_size": 8}}}
    home = package.parent
    (home / "sorting.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    workflows = ROOT / "workflows/gdsd.py"
    done = run_in_process("run", workflows, "train", "--config", "sorting.yaml", home=home / "home", cwd=home)
    assert done.code == 0, done.text
    report = next(line.split(None, 1)[1] for line in done.text.splitlines() if line.startswith("report "))
    assert PATH in (Path(report).parent / "run.json").read_text()


# The pin


HELPED = 'def ordered(number):\n    return "".join(sorted(number))\n'
REVERSED = HELPED.replace("(number))", "(number, reverse=True))")


def with_helper(package: Path, place: str = "import random\n") -> Path:
    """Lets the example import a module beside it, from which it has the references."""
    line = "from my_package.order import ordered\n"
    inside = place != "import random\n"
    edit(package, place, f"{place}        {line}" if inside else f"{place}\n{line}")
    edit(package, 'return Problem(number, "".join(sorted(number)))', "return Problem(number, ordered(number))")
    helper = package / "order.py"
    helper.write_text(HELPED)
    return helper


def reference(choice: DomainChoice) -> str:
    return make(choice).read({"number": "30412"}).reference


def test_edited_code_is_refused_where_it_was_pinned(package: Path) -> None:
    """If it fails, the cache answers for a verifier that has changed since, or a notebook goes on with the old one."""
    helper = with_helper(package)
    first = custom()
    stored = first.model_dump_json()
    assert DomainChoice.model_validate_json(stored) == first
    helper.write_text(REVERSED)
    again = custom()
    assert (reference(again), reference(custom())) == ("43210", "43210")
    changed = r"the code of 'my_package.sorting:Sorting' \(my_package.sorting, my_package, my_package.order"
    sums = [json.loads(choice.model_dump_json())["sha256"] for choice in (first, again)]
    for use in (lambda: DomainChoice.model_validate_json(stored), lambda: make(first)):
        with pytest.raises(ConfigError, match=changed) as caught:
            use()
        assert f"has sha256 {sums[1]}, but {sums[0]} was pinned; restore it, or remove `sha256`" in str(caught.value)


@pytest.mark.parametrize("text", [REVERSED, "def unfinished(:\n", None])
def test_code_that_is_edited_in_use_goes_on_as_it_was_imported(
    text: str | None, package: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If it fails, saving a file while a run goes on ends the run hours later, or changes its reward in the middle."""
    custom_domain._warn.cache_clear()
    helper = with_helper(package)
    stored = custom().model_dump_json()
    if text is None:
        helper.unlink()
    else:
        helper.write_text(text)
    for _ in range(2):
        choice = DomainChoice.model_validate_json(stored)
        assert reference(choice) == "01234"
        require_as_imported(choice)
    (line,) = caplog.messages
    assert line.startswith(f"domain {PATH!r}: my_package.order was edited while it is in use; this goes on with the ")


def test_what_is_read_late_is_refused_once_it_was_edited(package: Path) -> None:
    """If it fails, a run that goes on mixes two rewards, under the digest of the first."""
    helper = with_helper(package, '"""Makes a problem of a data set\'s row."""\n')
    edit(package, "    generates = True", "    files = ('words.txt',)\n    generates = True")
    words = package / "words.txt"
    words.write_text("one\n")
    choice = custom()
    helper.write_text(REVERSED)
    said = r"my_package.order was edited while it is in use, and is read only when it is needed; restore it, or start"
    with pytest.raises(ConfigError, match=said):
        judge_by(choice)
    helper.write_text(HELPED)
    judge_by(choice)
    words.write_text("two\n")
    assert DomainChoice.model_validate_json(choice.model_dump_json()) == choice, "a failed run can still be recorded"
    with pytest.raises(ConfigError, match=r"my_package/words.txt was edited"):
        judge_by(choice)


def judge_by(choice: DomainChoice) -> None:
    rows = pa.Table.from_pylist([{"problem": "30412", "reference": "01234"}])
    rewards.verify(rollouts(rows.append_column("id", pa.array(["a"])), lambda right, sample: right), choice)


def test_a_stored_configuration_finds_its_reward_from_anywhere(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a run can be repeated only from the folder in which it was started."""
    stored = custom().model_dump_json()
    assert json.loads(stored)["folder"] == str(package.parent)
    sys.path.remove(str(package.parent))
    forget()
    assert make(DomainChoice.model_validate_json(stored)).verify("10", "01", "01").solved
    other = package.parent / "other/my_package"
    shutil.copytree(package, other)
    monkeypatch.syspath_prepend(other.parent)
    forget()
    with pytest.raises(ConfigError, match=rf"'my_package.sorting' should lie in {package.parent}, but is found in "):
        DomainChoice.model_validate_json(stored)
    assert json.loads(custom(folder=str(other.parent)).model_dump_json())["folder"] == str(other.parent)


def test_a_reward_lies_beside_its_configuration_or_where_the_command_starts(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a person has to set PYTHONPATH before anything works."""
    sys.path.remove(str(package.parent))
    missing = (
        r"there is no module 'my_package.sorting'; it must lie beside the configuration, where pyflyte was started"
    )
    with pytest.raises(ConfigError, match=missing):
        custom()
    file = package.parent / "sorting.yaml"
    file.write_text(block("yaml"))
    choice = loading.load(TrainConfig, file).prompts.domain
    assert choice.name == PATH
    (elsewhere := tmp_path / "elsewhere").mkdir()
    named = yaml.safe_load(block("yaml"))
    named["prompts"]["domain"]["folder"] = ".."
    (elsewhere / "sorting.yaml").write_text(yaml.safe_dump(named))
    forget()
    sys.path.remove(str(package.parent))
    monkeypatch.setattr(own, "_folders", [])
    assert reference(loading.load(TrainConfig, elsewhere / "sorting.yaml").prompts.domain) == "01234"
    forget()
    sys.path.remove(str(package.parent))
    monkeypatch.setattr(own, "_folders", [])
    monkeypatch.setattr(own, "_configuration", None)
    monkeypatch.chdir(package.parent)
    assert custom(options={"digits": 5}, weights={"places": 0.9, "length": 0.1}) == choice


def test_a_folder_named_as_one_of_the_project_is_told_so(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, who keeps a reward in tasks/ is told that a file which is there is not there."""
    home = package.parent
    package.rename(home / "tasks")
    (home / "random.py").write_text(block("python"))
    sys.path.remove(str(home))
    monkeypatch.chdir(home)
    for path, file in (("tasks.sorting:Sorting", "tasks/sorting.py"), ("random:Sorting", "random.py")):
        said = f"{home / file} is hidden by another {path.split('.')[0].split(':')[0]!r}, which Python finds before"
        with pytest.raises(ConfigError, match=re.escape(said)):
            custom(path)


def test_files_that_a_reward_reads_are_part_of_it(package: Path) -> None:
    """If it fails, an edited list of words is answered from the cache, or is not there on a cluster."""
    edit(package, "    generates = True", "    files = ('words.txt',)\n    generates = True")
    assert "files has 'words.txt', which is not written out as a text in the class, or is no file below" in refusal()
    (package / "words.txt").write_text("one\n")
    first = custom()
    (package / "words.txt").write_text("two\n")
    assert custom() != first
    edit(package, "    generates = True", "    files = 'words.txt'\n    generates = True")
    assert "files must be a tuple of names, such as ('words.txt',), not 'words.txt'" in refusal()


def test_what_is_not_followed_is_said_once(package: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If it fails, an upgrade of a library that a reward uses is ignored, and nobody hears of it."""
    edit(package, "import random\n", "import random\n\nimport yaml\n")
    assert custom() == custom()
    (line,) = caplog.messages
    assert line == f"domain {PATH!r}: a change of these is not noticed: yaml (installed)"


# What is refused


def refusal(path: str = PATH, **fields: object) -> str:
    with pytest.raises(ConfigError) as caught:
        PromptConfig.model_validate_json(json.dumps({"domain": {"name": "custom", "path": path} | fields}))
    return str(caught.value)


def edit(package: Path, old: str, new: str) -> None:
    """Changes the example."""
    file = package / "sorting.py"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"path": "my_package.nothing:Sorting"},
            "there is no module 'my_package.nothing'; it must lie beside the configuration",
        ),
        (
            {"path": "no_such_package.sorting:Sorting"},
            "there is no module 'no_such_package.sorting'; it must lie",
        ),
        (
            {"path": "my_package.sorting:Sort"},
            "the module 'my_package.sorting' has no class 'Sort'; did you mean 'Sorting'?",
        ),
        ({"path": "my_package.sorting:Vowels"}, "has no class 'Vowels'"),
        (
            {"path": "my_package.sorting.Sorting"},
            "domain.path: must be `module:Class`, the module's name as Python imports it, a colon and the name of the "
            "class, such as 'my_package.my_domain:MyDomain', not 'my_package.sorting.Sorting'; did you mean "
            "'my_package.sorting:Sorting'?",
        ),
        ({"path": "my_package.sorting:Verdict"}, "'Verdict' is no subclass of tasks.gdsd.domains.base.Domain"),
        ({"path": "sys:Sorting"}, "there is no module 'sys'"),
        ({"folder": "rewards"}, f"'my_package.sorting' should lie in {Path.cwd() / 'rewards'}, but is found in "),
        ({"folder": "project:rewards"}, "'my_package.sorting' should lie in "),
        (
            {"path": "my_package/sorting.py:Sorting"},
            "such as 'my_package.my_domain:MyDomain', not 'my_package/sorting.py:Sorting'",
        ),
        (
            {"path": "tasks.gdsd.domains.base:Domain"},
            "does not set parts, columns, example; see docs/domains/custom.md",
        ),
        ({"options": {"digit": 5}}, "refuses the options {'digit': 5}: TypeError: "),
        ({"options": {"digits": 50}}, "refuses the options {'digits': 50}: ValueError: digits must be 2 to 12, not 50"),
        ({"weights": {"place": 1.0}}, "weights has place, but the reward's parts are places, length"),
    ],
    ids=str,
)
def test_fields_that_name_no_domain_are_refused(fields: dict[str, object], said: str, package: Path) -> None:
    """If it fails, a slip ends in a traceback of Python's import, or is noticed in the first task on the cluster."""
    assert said in refusal(**{"path": PATH} | fields)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("", "def :\n", "cannot be imported: SyntaxError"),
        ("", "raise RuntimeError('no licence')\n", "cannot be imported: RuntimeError: no licence"),
        ("", "import no_such_library\n", "cannot be imported: ModuleNotFoundError: No module named 'no_such_library'"),
        ("    parts = ", "    part = ", "does not set parts; see docs/domains/custom.md"),
        ("    example = ", "    examples = ", "does not set example"),
        ('{"places": 1.0, "length": 0.0}', "{}", "parts must be a mapping of at least one name to its weight, not {}"),
        ('{"places": 1.0, "length": 0.0}', '["places", "length"]', "parts must be a mapping"),
        ('{"places": 1.0, "length": 0.0}', '{"places": "1"}', "parts must be a mapping"),
        ('{"places": 1.0, "length": 0.0}', '{"places": float("nan")}', "parts must be a mapping"),
        ('{"places": 1.0, "length": 0.0}', '{"places": 0.0, "length": 0.0}', "weights are all 0"),
        ('("number",)', '("number")', "columns must be a tuple of names, such as ('number',), not 'number'"),
        ('("number",)', '("number",)\n    optional = ("hint",)', "optional has hint, but columns are number"),
        ('("number",)', '("number",)\n    optional = "number"', "optional must be a tuple of names, such as"),
        (
            'Answer("30412", "01234", "01234")',
            '("30412", "01234", "01234")',
            "example must be an Answer of three texts",
        ),
        ('Answer("30412", "01234", "01234")', 'Answer("30412", "01234", 1234)', "example must be an Answer"),
        ('r"^[0-9]{2,12}$"', 'r"^[0-9{2,12}$"', "problem_pattern must be a regular expression, not '^[0-9{2,12}$'"),
        ("    def phrase(", "    def rephrase(", "abstract method"),
        (
            "generates = True",
            "generates = False",
            f"{PATH} problems are not generated, so they need a source; set test_",
        ),
    ],
)
def test_an_incomplete_module_is_refused(old: str, new: str, said: str, package: Path) -> None:
    """If it fails, a user sees the pipeline's trace in place of the mistake, after the base policy was trained."""
    edit(package, old, new)
    assert said in refusal()


def test_a_package_that_cannot_be_imported_is_refused_with_the_reason(package: Path) -> None:
    """If it fails, a mistake beside the module ends in a traceback of Python's import."""
    (package / "__init__.py").write_text("raise RuntimeError('no licence')\n")
    forget()
    assert f"domain {PATH!r} cannot be imported: RuntimeError: no licence" in refusal()


def test_an_error_names_the_line_of_the_persons_own_code_that_raised_it(package: Path) -> None:
    """If it fails, a person looks for a mistake of their second module in the first one, or in Python's library."""
    edit(package, VERDICT, "return scored(answer)")
    file = package / "sorting.py"
    file.write_text(f"from my_package.scoring import scored\n\n{file.read_text()}")
    scoring = package / "scoring.py"
    scoring.write_text("import statistics\n\n\ndef scored(answer):\n    return statistics.mean(answer)\n")
    with pytest.raises(DataError) as caught:
        verdicts.require_verdicts(make(custom()), [Answer("30412", "01234", "")], PATH)
    assert f"on the answer '' to '30412' ({scoring}, line 5); verify must" in str(caught.value)


def test_an_import_that_fails_names_its_line(package: Path) -> None:
    """If it fails, a person looks for a slip in the name of a module of theirs in all of them."""
    edit(package, "", "from my_package import scoring\n")
    scoring = package / "scoring.py"
    scoring.write_text("import random\nimport scorring_helpers\n")
    missing = f"ModuleNotFoundError: No module named 'scorring_helpers' ({scoring}, line 2)"
    assert f"domain {PATH!r} cannot be imported: {missing}" in refusal()


def test_an_answer_that_the_tiny_policy_cannot_write_is_refused(package: Path) -> None:
    """If it fails, a domain that no answer of the policy can solve is noticed after a run, by its score of 0."""
    edit(package, 'Answer("30412", "01234", "01234")', 'Answer("30412", "01234", "X")')
    with pytest.raises(
        ConfigError, match=r"Sorting: the answer of its example has 'X' .* set policy.tiny.alphabet to from"
    ):
        TrainConfig.model_validate_json(json.dumps(yaml.safe_load(block("yaml"))))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'number = str(row["number"])',
            'number = str(int(str(row["number"])))',
            f"domain {PATH!r}, in row 1 of the test source (counted from 0), raised ValueError: invalid literal",
        ),
        ('return f"sort {problem}="', "return problem.no", "row 0 of the test source (counted from 0), raised Attri"),
        ("return frozenset([problem])", "exit()", "Sorting.shingles, of '30412', raised SystemExit: None"),
        (
            'return None if reference == "".join(sorted(problem))',
            "return None if reference == 1 / 0",
            f"domain {PATH!r}: fault, of the test problem 'test-000000', raised ZeroDivisionError: division by zero",
        ),
    ],
)
def test_an_error_in_a_domain_names_the_row_and_the_line(
    old: str, new: str, said: str, package: Path, tmp_path: Path
) -> None:
    """If it fails, a user's `read` that cannot take one row of thousands ends in a traceback of a hundred lines."""
    edit(package, old, new)
    file = tmp_path / "numbers.csv"
    file.write_text("number\n30412\n" + ("many\n" if "int(" in new else ""))
    with pytest.raises(DataError, match=rf"{re.escape(said)}.* \({package}/sorting.py, line \d+\)$"):
        made = read(file)
        problems.check_problems(PromptConfig(domain=custom()), {"test": made})
        problems.leave_out_trained_on(made, custom(), {"a": "30412"}, 0.7)


READ = 'return Problem(number, "".join(sorted(number)))'


def read(file: Path, **fields: object) -> pa.Table:
    """The test problems of a file."""
    sizes: dict[str, object] = {"train_size": 2, "validation_size": 1}
    config = {"domain": {"name": "custom", "path": PATH}, "test_data": {"path": str(file)}} | sizes | fields
    return problems.make_test(PromptConfig.model_validate_json(json.dumps(config)))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_only_optional_columns_may_be_missing(suffix: str, package: Path, tmp_path: Path) -> None:
    """If it fails, the reference of a row without an answer is `None`, or a domain cannot read what some rows lack."""
    text = block("python").replace('("number",)', '("number", "hint", "note")\n    optional = ("note",)', 1)
    text = text.replace(READ, 'return Problem(number, f\'{row["hint"]} {row["note"]}\')')
    (package / "sorting.py").write_text(text)
    rows: list[dict[str, object]] = [
        {"number": "30412", "hint": "None"},
        {"hint": "a"},
        {"number": "12345", "hint": None},
    ]
    file = tmp_path / f"numbers.{suffix}"
    write(rows, file)
    with pytest.raises(DataError, match=r"2 of 3 rows .*\n  row 1: number has no value\n  row 2: hint has no value"):
        read(file)
    write(rows[:1], file)
    assert read(file)["reference"].to_pylist() == ["None None"]
    write([{"number": "30412"}], file)
    with pytest.raises(
        DataError, match=r"the test source has no column 'hint'; say by prompts\.columns which of number it"
    ):
        read(file)


def test_a_row_becomes_texts(package: Path, tmp_path: Path) -> None:
    """If it fails, a number that a domain gives as its reference ends in a traceback of Arrow."""
    edit(package, READ, "return Problem(number, int(number))")
    file = tmp_path / "numbers.csv"
    file.write_text("number\n30412\n")
    with pytest.raises(DataError, match=r"1 of 1 rows .*\n  row 0: reference must be of type text, not int: 30412"):
        read(file)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('yield Problem(number, "".join(sorted(number)))', "yield Problem(number, 5)", "reference .* text, not int: 5"),
        ('return f"sort {problem}="', "None", "prompt .* text, not NoneType: None"),
        ('return f"sort {problem}="', 'return "\\ud800"', r"prompt holds a text with half a character, .*: '\\ud800'"),
        ('return f"sort {problem}="', "return 1 / 0", r"Sorting.phrase, of '\d+', raised ZeroDivisionError: .*, line"),
    ],
)
def test_what_a_domain_generates_is_texts(old: str, new: str, said: str, package: Path) -> None:
    """If it fails, a forgotten return ends in a traceback of Arrow."""
    edit(package, old, new)
    config = PromptConfig(domain=custom(), train_size=2, validation_size=1, test_size=1)
    with pytest.raises(DataError, match=rf"test problem 0 of Sorting\.problems: {said}"):
        problems.make_prompts(config)


# Verdicts that are not what the class declares

VERDICT = 'return Verdict(parts={"places": right / len(reference), "length": float(whole)}, solved=answer == reference)'
BROKEN = {
    "a part too few": ("return Verdict({'places': 1.0}, True)", "gave the parts places on the answer"),
    "a part too many": (
        "return Verdict({'places': 1.0, 'length': 1.0, 'other': 1.0}, True)",
        "gave the parts places, length, other on the answer '.*' to '.*'; wanted is each of places, length",
    ),
    "percent": (
        "return Verdict({'places': 50.0, 'length': 1.0}, True)",
        "gave 50.0 for the part places .* from 0 to 1",
    ),
    "below zero": ("return Verdict({'places': -0.5, 'length': 1.0}, True)", "gave -0.5 for the part places"),
    "not a number": ("return Verdict({'places': float('nan'), 'length': 1.0}, True)", "gave nan for the part places"),
    "text": ("return Verdict({'places': '1.0', 'length': 1.0}, True)", "gave '1.0' for the part places"),
    "solved as a share": (
        "return Verdict({'places': 1.0, 'length': 1.0}, 0.5)",
        "gave solved as 0.5 .* True, False, or",
    ),
    "a number as its remark": (
        "return Verdict({'places': 1.0, 'length': 1.0}, True, 7)",
        "gave the remark 7 on the answer '.*' to '.*'; wanted is a text, or None",
    ),
    "nothing": (
        "return None",
        "gave None on the answer '.*' to '.*'; wanted is a Verdict with the parts places, length",
    ),
    "parts alone": ("return {'places': 1.0, 'length': 1.0}", "gave {'places': 1.0, 'length': 1.0} on the answer"),
    "an error": (
        "return Verdict({'places': 1 / len(answer), 'length': 1.0}, True)",
        r"raised ZeroDivisionError: .* on the answer '' to '\d+' \(.*sorting.py, line \d+\); verify must return",
    ),
    "an error of ours": (
        "raise DataError('no digits')",
        r"raised DataError: no digits on the answer '' to '\d+' \(.*sorting.py, line \d+\)",
    ),
    "the end of an iterator": ("return next(iter(()))", "raised StopIteration: .* on the answer ''"),
    "the end of the program": ("exit()", "raised SystemExit: .* on the answer ''"),
    "a long error": ("raise ValueError('no' * 10**6)", "raised ValueError: (?:no){100} on the answer ''"),
    "a generator": ("yield Verdict({'places': 1.0, 'length': 1.0}, True)", "gave <generator object .* a Verdict with"),
    "an error below": ("json.loads(answer)", r"raised JSONDecodeError: .* on the answer '' .*sorting.py, line \d+\)"),
}


def judge(package: Path, verdict: str) -> pa.Table:
    """Judges empty answers and right ones by the example with another verdict."""
    edit(package, VERDICT, verdict)
    file = package / "sorting.py"
    file.write_text(f"import json\n\nimport numpy as np\n\n{file.read_text()}")
    choice = custom()
    made = problems.make_prompts(PromptConfig(domain=choice, train_size=2, validation_size=1, test_size=1))
    answers = rollouts(made["train"], lambda right, sample: right if sample else "")
    return rewards.reward(answers, choice, 4, scale_by_std=False)


@pytest.mark.parametrize(("verdict", "said"), BROKEN.values(), ids=list(BROKEN))
def test_what_is_no_verdict_is_refused(verdict: str, said: str, package: Path) -> None:
    """If it fails, a forgotten part counts as 0, percent are trained on, or a slip ends in a traceback of Arrow."""
    with pytest.raises(DataError, match=f"domain 'my_package.sorting:Sorting' {said}"):
        judge(package, verdict)


def test_what_a_reward_prints_does_not_flood_the_console(
    package: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """If it fails, a forgotten print hides the lines of a run behind thousands of its own."""
    rewards._tell_prints.cache_clear()
    judge(package, f"print(answer); {VERDICT}")
    judge_by(custom())
    assert capsys.readouterr().out == ""
    assert caplog.messages == [f"domain {PATH!r} prints while it verifies; what it prints is not shown"]


def test_a_signal_is_no_fault_of_the_reward(package: Path) -> None:
    """If it fails, Ctrl-C while a slow reward is asked ends as an error of its file, and leaves a failed run."""
    with pytest.raises(Interrupted):
        judge(package, "from tasks.gdsd.errors import Interrupted; raise Interrupted(130)")


def test_verdicts_for_all_must_be_one_for_each(package: Path) -> None:
    """If it fails, a `verify_all` without a return ends in a traceback, or one that drops answers shifts the others."""
    edit(package, "    def verify(", "    def verify_all(self, items):\n        self\n\n    def verify(")
    choice = custom()
    made = problems.make_prompts(PromptConfig(domain=choice, train_size=2, validation_size=1, test_size=1))
    with pytest.raises(DataError, match="gave None on 8 answers; wanted is a list with one for each"):
        rewards.reward(rollouts(made["train"], lambda right, sample: right), choice, 4, scale_by_std=False)


def test_a_remark_is_kept_as_far_as_a_table_can_hold_it(package: Path) -> None:
    """If it fails, half a character or a text without end in a remark stops the run."""
    remark = "'\\ud800' * 5000 if answer else None"
    judged = judge(package, f"return Verdict({{'places': 1.0, 'length': 1.0}}, True, {remark})")
    assert judged["remark"].to_pylist() == [None, *["?" * 1000 + " [...]"] * 3] * 2


def test_numbers_of_other_libraries_and_what_cannot_be_judged_are_taken(package: Path) -> None:
    """If it fails, a reward computed by numpy stops the run, or what could not be judged counts as wrong.

    The lengths are True and False, and the shares just above 1, as rounding may leave them. Empty answers have no
    share, so no reward.
    """
    numbers = "{'places': np.float32(1.0000001) if answer == reference else None, 'length': whole}"
    judged = judge(package, f"return Verdict({numbers}, np.bool_(whole) if answer else None)")
    assert judged["reward_places"].to_pylist() == [None, 1.0, 1.0, 1.0] * 2
    assert judged["reward_length"].to_pylist() == [0.0, 1.0, 1.0, 1.0] * 2
    assert judged["solved"].to_pylist() == [None, True, True, True] * 2
    assert judged["reward"].to_pylist() == [None, 1.0, 1.0, 1.0] * 2
    check_rewarded(judged, 4, custom()).require()
