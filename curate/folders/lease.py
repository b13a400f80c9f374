"""Who may write a folder of an object store: a small object that says who, and until when.

It is changed by writes that ask the store what they replace, so that of two processes one wins. A thread renews what a
process holds; what a killed one held can be taken once it has expired. Every write of the holder looks first whether
it still holds it, and replaces only what it saw before that look: one that was paused in between, while another
took over and wrote, fails.
"""

import json
import os
import random
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from curate.errors import CurateError
from curate.folders.objects import Changed, Store

SECONDS = 60.0
"""After which a lease that nobody renews has expired."""
NAME = ".lease"
_SETTLING = 2.0  # seconds, where the store cannot compare: another's write may have come on top
_TRIES = 100


class LeaseLostError(CurateError):
    """Another process has taken a folder over."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """A lease that is held, as a value: workers of the holder check it before they write."""

    store: Store
    name: str
    token: str

    def check(self) -> None:
        """Raise LeaseLostError unless it is held still; one that has expired is given time to be renewed."""
        deadline = time.monotonic() + SECONDS
        while (expires := _read(self.store, self.name)[0].holders.get(self.token, 0.0)) <= time.time():
            if not expires or time.monotonic() > deadline:
                raise LeaseLostError(
                    f"{self.store.address}: this process no longer has the right to write here: its claim expired, "
                    "and others may write.",
                    hint="Was it paused? Another may be at work there now; `curate status` tells how far it is.",
                )
            time.sleep(min(1.0, SECONDS / 10))


@dataclass(frozen=True, kw_only=True)
class _State:
    is_alone: bool = False
    holders: Mapping[str, float] = field(default_factory=dict)
    """When each expires, by token."""
    owners: Mapping[str, str] = field(default_factory=dict)
    """For people: machine and process, by token."""

    def living(self, but: str = "") -> "_State":
        """Return the state without what has expired; `but` stays: it is the one who asks."""
        return self.only({t for t, expires in self.holders.items() if t == but or expires > time.time()})

    def only(self, tokens: set[str]) -> "_State":
        holders = {t: e for t, e in self.holders.items() if t in tokens}
        return _State(
            is_alone=self.is_alone and bool(holders),
            holders=holders,
            owners={t: o for t, o in self.owners.items() if t in tokens},
        )

    def with_holder(self, token: str, *, is_alone: bool) -> "_State":
        return _State(
            is_alone=is_alone,
            holders={**self.holders, token: time.time() + SECONDS},
            owners={**self.owners, token: f"{socket.gethostname()}, process {os.getpid()}"},
        )


class Lease:
    """A claim on a folder of an object store; see `Claim`."""

    def __init__(self, store: Store, name: str = NAME) -> None:
        self.is_sole = False
        self.held = Held(store=store, name=name, token=uuid.uuid4().hex)
        self._stop = threading.Event()
        self._release = weakref.finalize(self, _release, self.held, self._stop)
        self._release.detach()  # until it is held

    @classmethod
    def alone(cls, store: Store) -> Self:
        """Claim a folder for one process; wait for what may expire. Raises CurateError while another renews it."""
        return cls(store)._wait(_take)

    @classmethod
    def beside_others(cls, store: Store) -> Self:
        """Claim a folder beside other jobs; `is_sole` says that there are none, until `share`. Raises CurateError."""
        if not store.compares:
            raise CurateError(
                f"{store.address}: several jobs cannot share a run in this kind of object store.",
                hint="Give a folder on s3:// or on a file system that all jobs see, or score with one job.",
            )
        return cls(store)._wait(_join)

    @classmethod
    def turn(cls, store: Store, name: str, on_wait: Callable[[], object]) -> Self:
        """Wait for one's turn at what one of several jobs does for all; call `on_wait` first where another is at it."""
        lease = cls(store, f".{name}{NAME}")
        return lease._wait(_take, on_wait=on_wait, patient=True)

    def share(self) -> None:
        self._change(lambda state: replace(state, is_alone=False))
        self.is_sole = False

    def become_sole(self) -> bool:
        if not self.is_sole:
            self.is_sole = self._change(self._alone)
        if not self.is_sole:
            self.release()
        return self.is_sole

    def guard(self, folder: Any) -> Any:
        """Return the folder as one whose writes check this lease."""
        return folder.guarded(self.held)

    @property
    def token(self) -> str:
        return self.held.token

    def release(self) -> None:
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _wait(
        self,
        enter: Callable[[_State], bool | None],
        *,
        on_wait: Callable[[], object] = lambda: None,
        patient: bool = False,
    ) -> Self:
        """Enter as soon as the state lets one in. Unless `patient`, raise CurateError for a holder that renews."""
        first: _State | None = None
        while (state := self._enter(enter)) is not None:
            if first is None:
                first = state
                on_wait()
            elif not patient and any(e > first.holders.get(t, 0.0) for t, e in state.holders.items()):
                raise _busy(self.held.store, state)
            time.sleep(random.uniform(0.5, 1.0) * min(1.0, SECONDS / 10))
        self._release = weakref.finalize(self, _release, self.held, self._stop)
        threading.Thread(target=_renew, args=(self.held, self._stop), name="lease", daemon=True).start()
        return self

    def _enter(self, enter: Callable[[_State], bool | None]) -> _State | None:
        """Return None once inside; else the state that kept one out."""
        seen: list[_State] = []

        def entered(state: _State) -> _State | None:
            seen.append(state.living())
            is_alone = enter(seen[-1])
            return None if is_alone is None else seen[-1].with_holder(self.token, is_alone=is_alone)

        if not _change(self.held, entered):
            return seen[-1]
        self.is_sole = bool(enter(seen[-1]))
        return None

    def _alone(self, state: _State) -> _State | None:
        living = state.living(but=self.token)
        return replace(living, is_alone=True) if set(living.holders) == {self.token} else None

    def _change(self, change: Callable[[_State], _State | None]) -> bool:
        def checked(state: _State) -> _State | None:
            if self.token not in state.holders:
                self.held.check()
            return change(state)

        return _change(self.held, checked)


def _take(state: _State) -> bool | None:
    return None if state.holders else True


def _join(state: _State) -> bool | None:
    if not state.holders:
        return True
    return None if state.is_alone else False


def _read(store: Store, name: str) -> tuple[_State, Any]:
    """Return the state, and the object that a change replaces, looked at first: a newer one is not replaced."""
    there = store.look(name)
    if there is None:
        return _State(), None
    try:
        return _State(**json.loads(store.read(name))), there
    except FileNotFoundError:
        return _State(), None


def _change(held: Held, change: Callable[[_State], _State | None]) -> bool:
    """Change the state, or leave it where `change` returns None, and return whether it was changed."""
    for _ in range(_TRIES):
        state, was = _read(held.store, held.name)
        changed = change(state)
        if changed is None:
            return False
        try:
            held.store.replace(held.name, json.dumps(vars(changed)).encode(), was)
        except Changed:
            time.sleep(random.uniform(0, 0.2))
            continue
        if held.store.compares or held.token in state.holders:
            return True
        time.sleep(_SETTLING)
        if held.token in _read(held.store, held.name)[0].holders:
            return True
    raise CurateError(
        f"{held.store.address}: its lease changes all the time.", hint="Are very many jobs at work on it?"
    )


def _renew(held: Held, stop: threading.Event) -> None:
    """Renew until `stop`; a lease that another has taken is not renewed."""
    while not stop.wait(SECONDS / 3):
        try:
            if not _change(held, lambda state: _renewed(held, state)):
                return
        except (
            Exception
        ):  # a store that is away for a while: the next turn tries again, and writes check for themselves
            continue


def _renewed(held: Held, state: _State) -> _State | None:
    """Return the state with more time; None where another has taken over, which removes what has expired."""
    return state.with_holder(held.token, is_alone=state.is_alone) if held.token in state.holders else None


def _release(held: Held, stop: threading.Event) -> None:
    stop.set()
    try:
        _change(held, lambda state: state.only(set(state.holders) - {held.token}))
    except Exception:  # it expires by itself
        return


def _busy(store: Store, state: _State) -> CurateError:
    owners = "; ".join(sorted(state.owners.values()))
    return CurateError(
        f"{store.address}: another process is writing this run ({owners}).",
        hint="Wait for it, stop it, or give another folder with --out.",
    )
