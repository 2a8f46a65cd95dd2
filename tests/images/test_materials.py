"""The list of what an image holds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from images import materials

STATUS = """\
Package: bubblewrap
Status: install ok installed
Architecture: amd64
Version: 0.8.0-2+deb12u1
Description: of several
 lines

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The file system of an image with one package of each kind."""
    environment = tmp_path / materials.VENV
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (packages,) = environment.glob("lib/python3*/site-packages")
    (packages / "some-2.0+cpu.dist-info").mkdir()
    metadata = "Metadata-Version: 2.4\nName: some\nVersion: 2.0+cpu\nLicense-Expression: MIT\n"
    (packages / "some-2.0+cpu.dist-info" / "METADATA").write_text(metadata)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "os-release").write_text('PRETTY_NAME="Debian"\nID=debian\nVERSION_ID="12"\n')
    (tmp_path / "var" / "lib" / "dpkg").mkdir(parents=True)
    (tmp_path / "var" / "lib" / "dpkg" / "status").write_text(STATUS)
    return tmp_path


def test_the_list_names_the_packages_of_python_and_of_debian(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, nobody can tell whether an image has a package that became unsafe, or under which licence it is."""
    materials.main([str(root)])
    found = json.loads(capsys.readouterr().out)
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    assert {part["purl"] for part in found["components"]} == {
        "pkg:pypi/some@2.0%2Bcpu",
        "pkg:deb/debian/bubblewrap@0.8.0-2%2Bdeb12u1?arch=amd64&distro=debian-12",
    }
    (some,) = (part for part in found["components"] if part["name"] == "some")
    assert "MIT" in json.dumps(some["licenses"])
