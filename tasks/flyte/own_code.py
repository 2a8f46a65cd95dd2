"""Code of a person's own on a cluster: it travels with the project, or is refused before anything is uploaded."""

import sys

from tasks.flyte.sources import ROOT, announce
from tasks.gdsd.domains import custom
from tasks.gdsd.domains.custom import CustomConfig
from tasks.gdsd.errors import ConfigError
from tasks.gdsd.modules import own
from tasks.gdsd.strict import models


def ship_own(config: object) -> None:
    """Makes all that the domains of one's own in a configuration reach travel, as `sources.ship` does of the project.

    Raises:
        ConfigError: it lies where nothing is uploaded from, or where pods would not look.
    """
    for place, domain in models(config):
        if not isinstance(domain, CustomConfig):
            continue
        code = custom.reached(domain.path, domain.folder)
        if code.folder is None:
            continue  # it is installed, so the image has to have it
        for name, path in code.modules.items():
            if not path.is_relative_to(ROOT):
                raise ConfigError(
                    f"{place}: {name!r} lies in {own.base(name, path)}, and pods get nothing but the project's folder "
                    f"{ROOT}; move it there, or install it in the image"
                )
            if own.base(name, path) not in (code.folder, ROOT):
                raise ConfigError(
                    f"{place}: {name!r} lies in {own.base(name, path)}, and pods look only in {code.folder} and in "
                    f"the project's folder {ROOT}; move it to one of them"
                )
        for name, path in {**code.modules, **code.data}.items():
            if getattr(sys.modules.get(name), "__file__", None) != str(path):
                announce(name, path)
