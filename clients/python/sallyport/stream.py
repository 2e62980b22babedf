"""A guarded stream of a server on threads."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, NoReturn

import grpc

from .call import AdmittedContext, with_verdict
from .checker import Checker
from .decide import Verdict
from .guard import StreamGuard
from .judge import Check, Origin, call_hook
from .requirement import Requirement
from .status import refusal_of

_ELSEWHERE: Final = 20 * 10**6  # for a handler that is blocked in code that is not ours
_LEAVING: Final = 1_000 * 10**6  # for one that the end has woken


class GuardedStream(AdmittedContext):
    """The context of a stream whose messages pass when its guard lets them.

    The guard ends it from other threads, but only the handler's own thread can set the status. It does so when it next
    waits for a message or gives one. A handler that is blocked elsewhere is cancelled, and its client sees CANCELLED.
    """

    def __init__(
        self,
        context: grpc.ServicerContext,
        checker: Checker,
        token: str,
        requirement: Requirement,
        origin: Origin,
        opened: Check,
    ) -> None:
        assert opened.identity is not None  # it is ALLOW
        super().__init__(context, opened.identity)
        self._checker = checker
        self._changed = threading.Condition()
        self._ended: Verdict | None = None
        self._inside = False  # the handler's thread waits here
        self._over = False
        self._opened = opened
        self._guard = StreamGuard(
            cache=checker.cache,
            check=lambda done: checker.check_soon(token, requirement, origin, done),
            end=self._end,
            requirement=requirement,
            clock=checker.timers,
        )

    def __enter__(self) -> "GuardedStream":
        self._guard.start(self._opened)
        if not self._context.add_callback(self._close):
            self._close()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def check(self) -> None:
        """Aborts the call if its stream has ended."""
        if self._ended is not None:
            refuse(self._context, self._ended)

    def wait(self) -> None:
        """Returns when a message may pass, or aborts the call. The message passes in the step that it asks in."""
        while True:
            passed: list[bool] = []
            self._guard.admit(partial(self._passed, passed))
            if passed:
                return
            self._until(partial(bool, passed))
            self.check()
            if self._over:  # the client has left, and nothing passes in either direction
                self._context.abort(grpc.StatusCode.CANCELLED, "the call is over")

    def guarded(self, requests: Iterator[Any]) -> "_Requests":
        return _Requests(self, requests)

    def is_active(self) -> bool:
        return self._ended is None and self._context.is_active()

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.wait()
        self._context.abort(code, details)

    def abort_with_status(self, status: grpc.Status) -> None:
        self.wait()
        self._context.abort_with_status(status)

    def _until(self, ready: Callable[[], bool]) -> None:
        with self._changed:
            self._inside = True
            while not ready() and self._ended is None and not self._over:
                self._changed.wait()
            self._inside = False

    def _passed(self, passed: list[bool]) -> None:
        with self._changed:
            passed.append(True)
            self._changed.notify_all()

    def _end(self, verdict: Verdict) -> None:
        with self._changed:
            self._ended = verdict
            patience = _LEAVING if self._inside else _ELSEWHERE
            self._changed.notify_all()
        self._checker.timers.after(patience, self._cut)
        call_hook(self._checker.hooks.stream_ended, verdict)

    def _cut(self) -> None:
        if not self._over:
            self._context.cancel()

    def _close(self) -> None:
        self._guard.close()
        with self._changed:
            self._over = True
            self._changed.notify_all()


def refuse(context: grpc.ServicerContext, verdict: str) -> NoReturn:
    """Ends a call with the status of a verdict, in the thread of its handler."""
    context.set_trailing_metadata(with_verdict(context.trailing_metadata(), verdict))
    context.abort(*refusal_of(verdict))
    raise AssertionError("abort raises")


class _Requests:
    """The requests of a stream, behind a queue of one that the guard can close. A thread reads what is asked for."""

    def __init__(self, stream: GuardedStream, requests: Iterator[Any]) -> None:
        self._stream = stream
        self._requests = requests
        self._wanted = False
        self._item: tuple[str, Any] | None = None
        threading.Thread(target=self._read, name="sallyport-requests", daemon=True).start()

    def __iter__(self) -> "_Requests":
        return self

    def __next__(self) -> Any:
        stream = self._stream
        with stream._changed:
            self._wanted = self._item is None
            stream._changed.notify_all()
        stream._until(lambda: self._item is not None)
        stream.check()
        if self._item is None:
            stream.wait()  # the call is over: it raises
            raise StopIteration
        kind, value = self._item
        if kind == "failed":
            raise value
        stream.wait()
        if kind == "ended":
            raise StopIteration
        self._item = None
        return value

    def next(self) -> Any:
        return next(self)

    def _read(self) -> None:
        changed = self._stream._changed
        kind = "message"
        while kind == "message":
            with changed:
                while not self._wanted:
                    if self._stream._over:
                        return
                    changed.wait()
                self._wanted = False
            value = None
            try:
                value = next(self._requests)
            except StopIteration:
                kind = "ended"
            except Exception as error:
                kind, value = "failed", error
            with changed:
                self._item = (kind, value)
                changed.notify_all()
