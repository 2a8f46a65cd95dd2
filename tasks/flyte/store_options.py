"""Options by which object stores are reached as Flyte reaches its own."""


def storage_options(url: str) -> dict[str, object]:
    """Returns the options of a URL's file system in fsspec, by FLYTE_AWS_ENDPOINT and the like or by Flyte's file."""
    protocol = url.split("://", 1)[0] if "://" in url else "file"
    if protocol == "file":
        return {}
    from flytekit.core.data_persistence import get_fsspec_storage_options  # which takes long, and most need no store

    options: dict[str, object] = get_fsspec_storage_options(protocol)
    return options
