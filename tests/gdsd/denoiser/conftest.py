"""Small published checkpoints, written once for all tests that do not change them."""

from pathlib import Path

import pytest

from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.load import load_folder
from tests.gdsd.checkpoints import CPU
from tests.gdsd.official import WRITERS


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random checkpoint of each family; not to be changed."""
    places = {name: tmp_path_factory.mktemp(name) for name in WRITERS}
    for name, place in places.items():
        WRITERS[name](place)
    return places


@pytest.fixture(scope="session")
def loaded(folders: dict[str, Path]) -> dict[str, Denoiser]:
    """The policy of each; not to be changed."""
    return {name: load_folder(folder, name, CPU) for name, folder in folders.items()}
