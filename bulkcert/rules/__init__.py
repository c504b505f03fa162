"""The rules of a campaign: may the next operation be claimed? Data here, pure functions below.

    approval    how many people must approve the plan     (data only)
    protect     what is never touched, and how much at most
    rollout     in which order, and in which waves
    abort       after how many failures a run stops itself
    check       what an outside command has to say         (data only)
    window      in which hours

Each section of the job file is one value; a rule that the job does not have is None, or empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bulkcert.rules.abort import Limit
from bulkcert.rules.rollout import Rollout
from bulkcert.rules.window import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """How many people must approve a plan.

    Attributes:
        required: distinct people; 0 if none.
        signers: an OpenSSH allowed_signers file; None only if nobody is required.
        revoked: an OpenSSH key revocation list, or None.
        valid_s: for how many seconds an approval counts.
    """

    required: int = 0
    signers: Path | None = None
    revoked: Path | None = None
    valid_s: float = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Protect:
    """What a run must not touch.

    Attributes:
        never: a target file with what is never touched, or None.
        max_operations: most distinct operations that the run may ever claim, selected ones
            included; None for no limit.
    """

    never: Path | None = None
    max_operations: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """An outside command that says whether a run may go on.

    Attributes:
        command: the program and its arguments.
        every_s: seconds from the beginning of one check to the next.
        timeout_s: seconds after which it is killed.
        patience_s: for how many seconds it may hold the run, alone, before the run ends.
    """

    command: tuple[str, ...]
    every_s: float = 30.0
    timeout_s: float = 10.0
    patience_s: float = 30 * 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The rules of a campaign; false if there are none.

    Attributes:
        approval, protect, rollout, check, window: the sections of the job; None if it has none.
        abort: what is tolerated, by `failed`, `unknown`, `canary`, or a code of the provider.
    """

    approval: Approval | None = None
    protect: Protect | None = None
    rollout: Rollout | None = None
    abort: Mapping[str, Limit] = field(default_factory=dict)
    check: Check | None = None
    window: Window | None = None

    def __bool__(self) -> bool:
        """Whether there is any rule."""
        sections = (self.approval, self.protect, self.rollout, self.check, self.window)
        return bool(self.abort) or any(section is not None for section in sections)

    @property
    def needed_approval(self) -> Approval | None:
        """The section about approvals, if it requires anybody's."""
        return self.approval if self.approval and self.approval.required else None

    @property
    def concern_the_run(self) -> bool:
        """Whether a rule depends on what all hosts do, and not on each operation alone."""
        is_capped = self.protect is not None and self.protect.max_operations is not None
        return bool(self.abort or self.rollout or self.check or is_capped)


NO_RULES = Rules()

MAX_OPERATIONS = "max_operations"
"""The key of `[protect]`; as the rule of an abort it can't be overridden."""
