"""What a person sees while a run goes on: stages that ended, line by line, and on a terminal those at work below."""

import shutil
import sys
import time
from collections.abc import Mapping
from typing import TextIO

from pipelines.core import log

_MARK = {"ran": "+", "cached": "=", "unchanged": "=", "failed": "x", "blocked": "-"}
_COLOUR = {"ran": 32, "cached": 36, "unchanged": 36, "failed": 31, "blocked": 33}
_SPIN = "|/-\\"


class Table:
    """
    table = Table()
    table.ended("finetune@air", "ran", 12.3, "")
    table.draw({"evaluate@air": 4.2}, waiting=7)
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self.out = out or sys.stderr
        self.live = self.out.isatty()
        self._drawn = 0

    def ended(self, stage: str, state: str, seconds: float, note: str = "") -> None:
        self._clear()
        took = f"{seconds:7.1f} s" if seconds else " " * 9
        line = f"{_MARK[state]} {stage:<28} {state:<9} {took}  {note}".rstrip()
        if self.live:
            self.out.write(f"\033[{_COLOUR[state]}m{line}\033[0m\n")
        else:
            log.logger.info("%s", line)

    def draw(self, running: Mapping[str, float], waiting: int) -> None:
        """Those at work with their seconds, and how many wait. Elsewhere than on a terminal nothing."""
        if not self.live:
            return
        self._clear()
        wide, high = shutil.get_terminal_size()
        spin = _SPIN[int(time.monotonic() * 5) % len(_SPIN)]
        lines = [f"{spin} {stage:<28} at work   {seconds:7.1f} s" for stage, seconds in running.items()][: high - 3]
        lines.append(f"  {len(running)} at work, {waiting} waiting")
        self.out.write("".join(f"{line[: wide - 1]}\n" for line in lines))
        self.out.flush()
        self._drawn = len(lines)

    def _clear(self) -> None:
        if self._drawn:
            self.out.write(f"\033[{self._drawn}A\033[J")
            self._drawn = 0
