"""Opening a file that a configuration names, by a path or any URI that fsspec knows."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fsspec.core import OpenFile

Options = Callable[[str], Mapping[str, object]]


def _none(uri: str) -> Mapping[str, object]:
    return {}


_options: Options = _none


def use(options: Options) -> None:
    """Says for all of this process with which options the file system of a URI is opened, such as an endpoint."""
    global _options
    _options = options


def open_file(path: str) -> "OpenFile":
    """Returns a file to be entered and read as bytes; of a chain, such as simplecache::s3://, each link has options.

    Raises:
        Exception: it cannot be read; each store's library raises what it likes.
    """
    import fsspec

    links = [link for link in path.split("::") if "://" in link]
    return fsspec.open(path, "rb", **{link.split("://", 1)[0]: dict(_options(link)) for link in links})
