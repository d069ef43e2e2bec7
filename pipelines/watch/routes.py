"""Where alerts go: a department's addresses, from the environment alone, and sending to one of them.

CITYLOOP_NOTIFY_<DEPARTMENT>, or CITYLOOP_NOTIFY for departments without their own: Apprise addresses, divided by
spaces. What is shown of an address has no password in it.
"""

import os
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pipelines.core.log import logger

WHERE = "CITYLOOP_NOTIFY"


@dataclass(frozen=True)
class Route:
    """`name`: the address as people may see it; `to`: the service that Apprise knows by it."""

    name: str
    to: Any

    def send(self, title: str, body: str, *, bad: bool = True) -> bool:
        """Whether it was taken. What goes wrong is logged, and stops nothing."""
        from apprise import Apprise, NotifyFormat, NotifyType

        one = Apprise()
        one.add(self.to)
        kind = NotifyType.WARNING if bad else NotifyType.SUCCESS
        try:
            done = bool(one.notify(title=title, body=body, notify_type=kind, body_format=NotifyFormat.TEXT))
        except Exception:  # whatever a service raises
            logger.exception("alert not sent to %s: %s", self.name, title)
            return False
        if not done:
            logger.warning("alert not sent to %s, which is tried again with the next one: %s", self.name, title)
        return done


def of(department: str) -> list[Route]:
    """The department's routes; one that Apprise does not know is named by its place, and left out."""
    name = f"{WHERE}_{re.sub('[^A-Z0-9]', '_', department.upper())}"
    name = name if os.environ.get(name, "").strip() else WHERE
    given = os.environ.get(name, "").split()
    if not given:
        return []
    try:
        from apprise import Apprise
    except ImportError:
        logger.error("%s: nothing can be sent without Apprise; pip install 'cityloop[track]'", name)
        return []
    found: dict[str, Route] = {}
    for number, address in enumerate(given, 1):
        to: Any = Apprise.instantiate(address)
        if to is None:
            logger.error("%s: its address %d is none that Apprise knows; nothing is sent there", name, number)
            continue
        kind = urlsplit(to.url(privacy=True))  # which leaves the path of a web hook, and what is secret in it
        shown = f"{kind.scheme}://{kind.netloc}"
        shown = shown if shown not in found else f"{shown} ({number})"
        found[shown] = Route(shown, to)
    return list(found.values())
