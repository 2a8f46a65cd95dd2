"""The end of a night: keeps in the registry how it ended, and mails it.

Flyte's own mails know whether a run succeeded, and not whether its policy was promoted. So the night's last task sends
a mail by the server that GDSD_MAIL_SERVER names, to those whom GDSD_NOTIFY names. Both are read when the task is
registered. The password of a server with a login is GDSD_MAIL_PASSWORD, in the environment of the pods.
"""

import logging
import os
import re
import smtplib
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import make_msgid
from urllib.parse import unquote, urlsplit

from tasks.flyte.local import in_pod
from tasks.flyte.stage import cpu_task
from tasks.gdsd.errors import ConfigError
from tasks.gdsd.registry.kept import Night
from tasks.promote import RetrainResult, open_registry

logger = logging.getLogger(__name__)

NOTIFY, SERVER, PASSWORD = "GDSD_NOTIFY", "GDSD_MAIL_SERVER", "GDSD_MAIL_PASSWORD"
ATTEMPTS, WAIT_S, TIMEOUT_S = 3, 20.0, 30.0
LABEL = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"  # between the dots of a host's name
HOST = re.compile(rf"{LABEL}(\.{LABEL})*")
# What the pod of the last task must know of the registration.
ADDRESSES = {name: os.environ[name] for name in (NOTIFY, SERVER) if name in os.environ}


@dataclass(frozen=True)
class Post:
    """Whom to write to, and by which server."""

    recipients: list[str]
    server: str | None

    def send(self, subject: str, text: str, password: str | None) -> list[str]:
        """Sends a mail, and returns the recipients that the server refused; a login goes over TLS only.

        Raises:
            OSError: the server cannot be reached, or refuses all; all errors of `smtplib` are such.
        """
        place = urlsplit(self.server or "")
        user = unquote(place.username or "")
        mail = EmailMessage()
        mail["Subject"], mail["To"] = subject, ", ".join(self.recipients)
        sender = user if _is_whole(user) else self.recipients[0]
        mail["From"], mail["Date"] = sender, datetime.now(UTC)
        mail["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2])
        mail.set_content(text)
        context = ssl.create_default_context()
        with (
            smtplib.SMTP_SSL(place.hostname or "", place.port or 0, timeout=TIMEOUT_S, context=context)
            if place.scheme == "smtps"
            else smtplib.SMTP(place.hostname or "", place.port or 0, timeout=TIMEOUT_S)
        ) as connection:
            if user and place.scheme == "smtp":
                connection.starttls(context=context)
            if user:
                connection.login(user, password or "")
            return list(connection.send_message(mail))


def read_post(variables: Mapping[str, str]) -> Post:
    """Returns to whom, and how, the environment has mails sent.

    Raises:
        ConfigError: an address or the server is malformed, or the password, in a pod, is none that can be sent.
    """
    recipients = [address.strip() for address in variables[NOTIFY].split(",")] if NOTIFY in variables else []
    for address in recipients:
        if not _is_whole(address):
            raise ConfigError(
                f"{NOTIFY} has {address!r:.80}, which is no mail address; write addresses such as ann@example.org, "
                "separated by commas, or leave the variable unset"
            )
    server = variables.get(SERVER)
    if server is not None:
        if not _is_server(server):
            raise ConfigError(
                f"{SERVER} names no mail server; write smtp://HOST:PORT for one without a login, or smtps://USER@HOST "
                f"for one with a login, whose password pods find in {PASSWORD}"
            )
        if not recipients:
            raise ConfigError(f"{SERVER} is set, but {NOTIFY} names nobody to write to; set both, or neither")
    if not variables.get(PASSWORD, "").isascii():
        raise ConfigError(f"{PASSWORD} has a character that is not ASCII, which cannot be sent; choose another")
    return Post(recipients, server)


def _is_whole(address: str) -> bool:
    """Whether a text is a mail address and no more, at a host with a domain, in ASCII as all servers take it."""
    try:
        found = Address(addr_spec=address)
    except (MessageError, ValueError, IndexError):  # the last of these is what "ann@" gives
        return False
    return found.addr_spec == address and "." in found.domain and HOST.fullmatch(found.domain) is not None


def _is_server(server: str) -> bool:
    try:
        place, port = urlsplit(server), urlsplit(server).port
    except ValueError:  # of a port that is no number, or of brackets
        return False
    host, user = (place.hostname or "").removesuffix("."), unquote(place.username or "")
    return (
        server == place.geturl()  # which has no spaces around it
        and place.scheme in ("smtp", "smtps")
        and (HOST.fullmatch(host) is not None or ":" in host)  # the latter is an address of IPv6
        and port != 0
        and place.password is None
        and (place.path, place.query, place.fragment) in (("", "", ""), ("/", "", ""))
        and (server + user).isascii()
        and user.isprintable()
    )


@cpu_task(hours=0.5, cached=False, environment=ADDRESSES)
def end_night(result: RetrainResult) -> None:
    """Keeps how a night ended, and mails it; a mail that does not go out is logged, since the night is done."""
    open_registry(result.registry).nights.keep(result.night)
    logger.info("night: %s", result.night.outcome())
    if in_pod():
        _mail(result.night, result)


def _mail(night: Night, result: RetrainResult) -> None:
    subject = f"{night.experiment}, night of {night.due:%Y-%m-%d %H:%M}: {night.outcome()}"
    text = f"{night.outcome()}\n\nWhy: {night.reason}.\n\n{result}\nby        {night.who}\n"
    try:
        post = read_post(os.environ)
    except ConfigError as error:
        logger.error("no mail: %s", error)
        return
    for attempt in range(1, ATTEMPTS + 1 if post.server else 0):
        try:
            refused = post.send(subject, text, os.environ.get(PASSWORD))
        except OSError as error:
            logger.error("attempt %d to mail it to %s: %s", attempt, ", ".join(post.recipients), error)
            time.sleep(WAIT_S if attempt < ATTEMPTS else 0)
        else:
            if refused:
                logger.error("the mail server refused %s; the others were written to", ", ".join(refused))
            return
