"""A mail server on this machine, which keeps what it is sent."""

import socketserver
import threading
from email import message_from_bytes
from email.message import Message
from typing import Self


class MailServer(socketserver.ThreadingTCPServer):
    """Takes mails as a relay without a login does."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Conversation)
        self.mails: list[Message] = []
        self.words: list[bytes] = []  # all that clients have said, but for the mails
        self.busy = 0  # so many clients are sent away first
        self.unknown: set[bytes] = set()  # whom no mail is taken for

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.server_address[1]}"


class Conversation(socketserver.StreamRequestHandler):
    """What a server and a client say to each other."""

    server: MailServer

    def handle(self) -> None:
        if self.server.busy:
            self.server.busy -= 1
            self.wfile.write(b"421 busy\r\n")
            return
        self.wfile.write(b"220 here\r\n")
        for line in self.rfile:
            self.server.words.append(line)
            word = line.split()[0].upper()
            if word == b"RCPT" and any(name in line for name in self.server.unknown):
                self.wfile.write(b"550 nobody\r\n")
                continue
            if word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = list(iter(self.rfile.readline, b".\r\n"))
                self.server.mails.append(message_from_bytes(b"".join(lines)))
            self.wfile.write(b"221 bye\r\n" if word == b"QUIT" else b"250 well\r\n")
            if word == b"QUIT":
                return
