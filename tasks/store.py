"""Object stores, reached as Flyte reaches its own."""


def storage_options(url: str) -> dict[str, object]:
    """Returns what fsspec's file system takes for a path or URL: FLYTE_AWS_ENDPOINT and the like, or Flyte's file."""
    protocol = url.split("://", 1)[0] if "://" in url else "file"
    if protocol == "file":
        return {}
    from flytekit.core.data_persistence import get_fsspec_storage_options  # which takes long, and most need no store

    options: dict[str, object] = get_fsspec_storage_options(protocol)
    return options
