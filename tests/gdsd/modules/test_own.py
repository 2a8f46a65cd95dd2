"""Which code of a person's own a module reaches, and where its modules are found."""

import ast
import importlib
import multiprocessing
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.gdsd.modules import own, syntax

REWARD = "shop.reward"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of a person's own, with a package that has much in it, of which the reward needs little."""
    for name, text in {
        "shop/__init__.py": "",
        "shop/reward.py": "",
        "shop/words.py": "WORDS = 1\n",
        "shop/more.py": "MORE = 1\n",
        "shop/deep/words.py": "WORDS = 1\n",
        "shop/data/words.txt": "one\n",
        "shop/words.txt": "one\n",
        "beside.py": "WORDS = 1\n",
        "random.py": "WORDS = 1\n",
        "numpy/__init__.py": "WORDS = 1\n",
        "tasks/words.py": "WORDS = 1\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(own, "_folders", [])
    monkeypatch.setattr(own, "_configuration", None)
    own.look_around(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("shop", "beside")]:
        del sys.modules[name]
    importlib.invalidate_caches()


REACHED = {
    "from shop.words import WORDS": "shop/words.py",
    "import shop.words": "shop/words.py",
    "from .words import WORDS": "shop/words.py",
    "from . import words": "shop/words.py",
    "from ..shop import words": "",  # which Python refuses too
    "from .deep import words": "shop/deep/words.py",  # whose folder is no package
    "def verify():\n    from shop.words import WORDS": "shop/words.py",
    "if True:\n    import beside": "beside.py",
    "from importlib import import_module\nimport_module('shop.words')": "shop/words.py",
    "import importlib\nimportlib.import_module('.words', __package__)": "shop/words.py",
    "__import__('beside')": "beside.py",
    "import shop.more": "shop/__init__.py",
    "class Reward:\n    files = ('words.txt',)": "shop/words.txt",
    "class Reward:\n    files: tuple[str, ...] = ('data/words.txt',)": "shop/data/words.txt",
}


@pytest.mark.parametrize(("statement", "reached"), REACHED.items(), ids=list(REACHED))
def test_what_a_reward_reaches_counts(statement: str, reached: str, home: Path) -> None:
    """If it fails, an edit beside the reward is answered from the cache, or one of something else costs a run."""
    (home / "shop/reward.py").write_text(statement)
    files = [path for path in sorted(home.rglob("*")) if path.is_file() and path.name != "reward.py"]
    counted = []
    for file in files:
        before = own.follow(REWARD)
        text = file.read_text()
        file.write_text(f"{text}EDITED = 1\n")
        if own.follow(REWARD).sha256 != before.sha256:
            counted.append(file.relative_to(home).as_posix())
        file.write_text(text)
    packages = {"shop/__init__.py"} | ({"shop/more.py"} if "more" in statement else set())
    assert set(counted) == packages | ({reached} - {""})


def test_what_is_reached_is_followed_further(home: Path) -> None:
    """If it fails, only the modules that the reward names itself count."""
    (home / "shop/reward.py").write_text("from .words import WORDS\n")
    (home / "shop/words.py").write_text("import beside\nfrom shop import reward\n")
    (home / "beside.py").write_text("def late():\n    from shop.more import MORE\n")
    code = own.follow(REWARD)
    assert sorted(code.modules) == ["beside", "shop", "shop.more", "shop.reward", "shop.words"]
    assert code.folder == home and code.modules["shop"] == home / "shop/__init__.py" and not code.unknown


def test_comments_docstrings_and_the_place_do_not_count(home: Path, tmp_path: Path) -> None:
    """If it fails, a spelling mistake costs all verdicts, or the same code has another digest in a pod."""
    text = 'class Reward:\n    """Words."""\n\n    async def of(self):\n        """Words."""\n        return 1\n'
    (home / "shop/reward.py").write_text(text)
    before = own.follow(REWARD)
    (home / "shop/reward.py").write_text(f"# A comment.\n{text.replace('Words.', 'Other words.')}\n\n")
    assert own.follow(REWARD).sha256 == before.sha256
    other = tmp_path / "other"
    other.mkdir()
    (home / "shop").rename(other / "shop")
    own.look_around(other)
    assert own.follow(REWARD).sha256 == before.sha256 and own.follow(REWARD).folder == other


def test_a_digest_is_the_same_under_all_versions_of_python() -> None:
    """If it fails, a reward that was pinned here is refused in an image with another Python."""
    text = "def f(x, *, w: int = 3) -> str:\n    'Words.'\n    return f'{x!r:>{w}} {x=}' 'é'\n"
    assert syntax.meaning(ast.parse(text)).startswith("6b95aac7748c31fa")
    deep = "if x == 0: pass\n" + "".join(f"elif x == {number}: pass\n" for number in range(900))
    assert len(syntax.meaning(ast.parse(deep))) == 64


UNKNOWN = {
    "import numpy": "numpy/__init__.py is not used, since 'numpy' is another module; give it another name if",
    "import yaml": "yaml (installed)",
    "import random": "random.py is not used, since 'random' is another module; give",
    "from tasks.words import WORDS": "tasks/words.py is not used, since 'tasks' is another module; give",
    "import importlib\n\nimportlib.import_module(NAME)": "what line 3 of {}/shop/reward.py imports",
    "from runpy import run_path\nrun_path('words.py')": "what line 2 of {}/shop/reward.py imports",
    "WORDS = open('words.txt').read()": "what line 1 of {}/shop/reward.py reads",
    "class Reward:\n    files = ('words.txt',)\nopen('/elsewhere/words.txt')": "what line 3 of {}/shop/reward.py reads",
    "class Reward:\n    files = ('words.txt', 'none.txt')\nopen('none.txt')": "what line 3 of {}/shop/reward.py reads",
    "class Reward:\n    files = ('words.txt',)\nopen(HERE / NAME)": "what line 3 of {}/shop/reward.py reads",
    "import pandas as pd\npd.read_csv('words.csv')": "what line 2 of {}/shop/reward.py reads",
    "import numpy as np\nnp.load('words.npy')": "what line 2 of {}/shop/reward.py reads",
    "class Reward:\n    files = ('../beside.py', '/etc/hostname')\nopen('/etc/hostname')": "what line 3 of {}/shop",
}


@pytest.mark.parametrize(("statement", "said"), UNKNOWN.items(), ids=list(UNKNOWN))
def test_what_is_not_followed_is_said(statement: str, said: str, home: Path) -> None:
    """If it fails, an edit is ignored and nobody hears of it, or a file that is not the module is taken for it."""
    (home / "shop/reward.py").write_text(statement)
    code = own.follow(REWARD)
    assert said.format(home) in "; ".join([*code.unknown, *code.unused])
    assert sorted(code.modules) == ["shop", "shop.reward"] and code.data.keys() <= {"shop/words.txt"}


def test_what_can_be_followed_needs_no_word(home: Path) -> None:
    """If it fails, a person reads of each run that something is wrong."""
    text = "import json, re\nfrom tasks.gdsd.domains.base import Domain\nfrom .words import WORDS\n"
    read = ["open('words.txt', encoding='utf-8')", "(HERE / 'data' / 'words.txt').read_text()", "json.load(file)"]
    read += ["read_csv(os.path.join(HERE, 'data/words.txt'))", "open(f'{HERE}/words.txt')"]
    listed = "class Reward:\n    files = ['words.txt', 'data/words.txt']\n"
    (home / "shop/reward.py").write_text("\n".join([text, listed, *read]))
    code = own.follow(REWARD)
    assert code.unknown == [] == code.unused


def test_a_folder_hides_no_other_module(home: Path) -> None:
    """If it fails, a person's random.py or tasks/ breaks the project in a way that nobody understands."""
    for name in ("random", "tasks.gdsd.strict", "numpy"):
        found = own.find(name)
        assert found is not None and not found.is_relative_to(home)
    assert own.hidden("random") == home / "random.py" and own.hidden("beside") is None
    assert importlib.import_module("random") is random


def test_the_configuration_s_folder_comes_before_the_working_one(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, who trains on another folder's configuration gets the reward of this one."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "beside.py").write_text("")
    monkeypatch.chdir(here)
    own.look_around()
    assert own.find("beside") == home / "beside.py"
    own.configured_in(there)
    own.look_around()
    assert own.find("beside") == there / "beside.py"
    own.look_around(home)
    assert own.find("beside") == home / "beside.py" and sys.path[-3:] == [str(home), str(there), str(here)]


def test_worker_processes_find_the_same_modules(home: Path) -> None:
    """If it fails, a reward that judges in several processes works until it is not started with PYTHONPATH."""
    (home / "shop/words.py").write_text("import beside\n\n\ndef number():\n    return beside.WORDS\n")
    words = importlib.import_module("shop.words")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(words.number) == 1
