"""What the README says of the tree and of the metrics is so."""

import re
from pathlib import Path

import yaml

from tasks.gdsd.run import run_record

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_every_source_file_has_its_line() -> None:
    """A newcomer finds each file by what it holds."""
    files = [path for folder in ("tasks", "workflows", "images", "configs") for path in (ROOT / folder).rglob("*.*")]
    named = set(re.findall(r"[\w.]+\.(?:py|yaml)", README))
    missing = [path.name for path in files if path.suffix in (".py", ".yaml") and path.name not in named]
    assert not missing


def test_every_metric_is_in_the_table() -> None:
    """A metric that nobody explains is noise."""
    source = Path(run_record.__file__).read_text()
    names = set(re.findall(r'"([a-z]+/[a-z_]+)"', source))
    assert len(names) > 10
    assert names == set(re.findall(r"`([a-z]+/[a-z_]+)`", README)) & names
    assert not [name for name in re.findall(r"^\| (`[a-z]+/[a-z_]+`.*?) \|", README, re.M) if not name]


def test_the_config_keys_of_the_readme_exist() -> None:
    """The README's own example must load."""
    from tasks.gdsd.config.train import PromptConfig

    example = re.search(r"`prompts: (\{train_data: .*?\}\})`", README)
    assert example is not None
    (key,) = yaml.safe_load(example.group(1))
    assert key in PromptConfig.model_fields
