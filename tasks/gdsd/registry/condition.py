"""Whether a registry is whole, as far as that is seen without reading the policies."""

from tasks.gdsd.errors import RegistryError
from tasks.gdsd.registry.registry import Registry


def require_whole(registry: Registry) -> None:
    """Makes sure that nothing is lost or damaged that somebody should see to.

    Raises:
        RegistryError: something is; the message has a line for each.
    """
    if found := damage(registry):
        raise RegistryError("\n".join(found))


def damage(registry: Registry) -> list[str]:
    """Returns what is wrong with the log, and with the entries of champions that were not rolled back from since."""
    found, champions = registry.log.damage(), dict[str, None]()
    for change in registry.history():
        if change.action == "rolled back" and change.previous is not None:
            champions.pop(change.previous, None)
        champions[change.entry] = None
    for entry in champions:
        try:
            registry.entry(entry)
        except RegistryError as error:
            found.append(str(error))
    return found
