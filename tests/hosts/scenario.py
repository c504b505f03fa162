"""What a scenario is, and how it is found by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hosts.judge import Figures

Log = Callable[[str], None]
Play = Callable[[Path, Log], Figures]


@dataclass(frozen=True)
class Scenario:
    """One scenario.

    Attributes:
        name: of the function that carries it out.
        text: its docstring.
        play: carries it out in an empty folder, and returns what was seen.
        needs_namespaces: hosts must have a link of their own.
    """

    name: str
    text: str
    play: Play
    needs_namespaces: bool = False


@dataclass
class Scenarios:
    """All scenarios, in the order in which they were written."""

    by_name: dict[str, Scenario] = field(default_factory=dict)

    def __call__(self, play: Play) -> Play:
        """Add one; a decorator."""
        self._add(play, needs_namespaces=False)
        return play

    def in_namespaces(self, play: Play) -> Play:
        """Add one that needs hosts with a link of their own."""
        self._add(play, needs_namespaces=True)
        return play

    def _add(self, play: Play, *, needs_namespaces: bool) -> None:
        name = play.__name__.replace("_", "-")
        text = " ".join((play.__doc__ or "").split())
        self.by_name[name] = Scenario(name, text, play, needs_namespaces)


scenario = Scenarios()
