"""Lists what an image holds, in CycloneDX: the packages of Python with their licences, and those of Debian.

    python materials.py ROOT > materials.cdx.json

ROOT is where the image's file system lies. The build runs this with the packages of images/lock/materials.txt.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

VENV = "opt/venv"
VERSION = SchemaVersion.V1_6


def python_packages(root: Path) -> Bom:
    """Returns the list of what the image's virtual environment has."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--no-validate", str(root / VENV)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    bom: Bom = Bom.from_json(json.loads(found))  # type: ignore[attr-defined]  # which a decorator adds
    return bom


def debian_packages(root: Path) -> Iterator[Component]:
    """Yields what dpkg has installed."""
    release = dict(re.findall(r'^(ID|VERSION_ID)="?([^"\n]*)"?$', (root / "etc" / "os-release").read_text(), re.M))
    distro = release["ID"]
    for stanza in (root / "var" / "lib" / "dpkg" / "status").read_text().split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Architecture|Status): (.*)$", stanza, re.M))
        if not fields.get("Status", "").endswith(" installed"):
            continue
        qualifiers = {"arch": fields["Architecture"], "distro": f"{distro}-{release['VERSION_ID']}"}
        url = PackageURL("deb", distro, fields["Package"], fields["Version"], qualifiers)
        yield Component(
            name=fields["Package"],
            version=fields["Version"],
            type=ComponentType.LIBRARY,
            purl=url,
            bom_ref=url.to_string(),
        )


def materials(root: Path) -> str:
    """Returns the list.

    Raises:
        ValueError: CycloneDX's schema refuses it.
    """
    bom = python_packages(root)
    bom.components.update(debian_packages(root))
    text = make_outputter(bom, OutputFormat.JSON, VERSION).output_as_string(indent=1)
    if fault := JsonStrictValidator(VERSION).validate_str(text):
        raise ValueError(f"the list of materials is no CycloneDX {VERSION.to_version()}: {fault}")
    return text


def main(arguments: Sequence[str]) -> None:
    """Prints the list of what lies in a folder."""
    (root,) = arguments
    print(materials(Path(root)))


if __name__ == "__main__":
    main(sys.argv[1:])
