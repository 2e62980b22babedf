"""The vectors that the client of every language must satisfy. Times in them are milliseconds."""

import json
from pathlib import Path
from typing import Any

from sallyport.cache import Entry, FeedAnswer, FeedCache, Identity, Version
from sallyport.decide import Facts, TimeBounds
from sallyport.judge import Check
from sallyport.requirement import PUBLIC, Requirement, Rule

VECTORS = Path(__file__).parents[2] / "vectors"
NOBODY = Identity("tok_1", "default", "user:ann", "pat")


def read(name: str) -> dict[str, Any]:
    return json.loads((VECTORS / f"{name}.json").read_text())


def ns(ms: float) -> int:
    return round(ms * 10**6)


def maybe_ns(ms: float | None) -> int | None:
    return None if ms is None else ns(ms)


def requirement(of: Any) -> Rule:
    return PUBLIC if of == "public" else Requirement(**of)


def facts(of: dict[str, Any]) -> Facts:
    return Facts(
        tuple(of.get("scopes", ())),
        tuple(of.get("audiences", ())),
        maybe_ns(of.get("expire")),
        maybe_ns(of.get("notBefore")),
    )


class FakeClock:
    """A clock by hand."""

    def __init__(self) -> None:
        self.now = 0
        self._timers: list[tuple[int, Any]] = []

    def mono(self) -> int:
        return self.now

    def after(self, ns: int, then: Any) -> Any:
        timer = (self.now + ns, then)
        self._timers.append(timer)
        return lambda: self._timers.remove(timer) if timer in self._timers else None

    def to(self, at: int) -> None:
        while due := [timer for timer in self._timers if timer[0] <= at]:
            first = min(due, key=lambda timer: timer[0])
            self._timers.remove(first)
            self.now = max(self.now, first[0])
            first[1]()
        self.now = at


def run_feed_case(case: dict[str, Any], cache_class: type[FeedCache] = FeedCache) -> None:
    clock = FakeClock()
    cache = cache_class(clock.mono)
    for step in case["steps"]:
        clock.now = ns(step["at"])
        match step:
            case {"answer": of}:
                timed = of.get("lower") is not None and of.get("upper") is not None
                time = TimeBounds(ns(of["lower"]), ns(of["upper"])) if timed else None
                lease, changed = maybe_ns(of.get("lease")), tuple(of.get("changed", ()))
                answer = FeedAnswer(of["epoch"].encode(), of["position"], lease, changed, of.get("floor", 0), time)
                cache.apply(answer, ns(of["sent"]))
            case {"store": of}:
                entry = Entry(of["epoch"].encode(), of["position"], tuple(of["tags"]), Facts(), NOBODY)
                cache.store(of["key"].encode(), entry, ns(of["asked"]))
            case {"refuse": of}:
                cache.store_refusal(of["key"].encode(), Version(of["epoch"].encode(), of["position"]), ns(of["asked"]))
            case {"find": key}:
                _same(step, cache.entry(key.encode()) is not None, step["found"])
            case {"refused": key}:
                _same(step, cache.refused(key.encode()), step["found"])
            case {"acknowledges": of}:
                _same(step, cache.version, (of["epoch"].encode(), of["position"]))
            case {"time": of}:
                _same(step, cache.time(), (ns(of["lower"]), ns(of["upper"])))
            case _:
                raise AssertionError(f"no such step: {step}")


def run_guard_case(case: dict[str, Any], guard_class: Any, cache_class: Any = FeedCache) -> None:
    clock = FakeClock()
    cache = cache_class(clock.mono)
    expire = maybe_ns(case.get("expire"))

    def entry(of: dict[str, Any] | None) -> Entry | None:
        if of is None:
            return None
        return Entry(of["epoch"].encode(), of["position"], tuple(of["tags"]), Facts(expire=expire), NOBODY)

    def apply(epoch: str, position: int, changed: list[int], lease: float) -> None:
        bounds = TimeBounds(clock.now, clock.now)
        cache.apply(FeedAnswer(epoch.encode(), position, ns(lease), tuple(changed), 0, bounds), clock.now)

    apply("e", 5, [], 1300)
    asked: list[Any] = []
    passed: list[str] = []
    ends: list[str] = []
    guard = guard_class(
        cache=None if case.get("cache") == "off" else cache,
        check=asked.append,
        end=ends.append,
        requirement=Requirement(),
        clock=clock,
    )
    guard.start(Check("ALLOW", NOBODY, (), entry(case.get("entry"))))
    for step in case["steps"]:
        clock.to(ns(step["at"]))
        match step:
            case {"feed": of}:
                apply(of["epoch"], of["position"], of["changed"], of["lease"])
                if "suspends" in of:
                    _same(step, bool(asked), of["suspends"])
            case {"message": message}:
                guard.admit(lambda message=message: passed.append(message))
            case {"answer": of}:
                assert asked, f"no check is in flight: {step}"
                asked.pop(0)(Check(of["verdict"], NOBODY, (), entry(of["entry"])))
            case _:
                ended = ends[0] if ends else None
                _same(step, (passed, bool(asked), ended), (step["passed"], step["pending"], step["ended"]))
                passed.clear()
    guard.close()
    assert len(ends) < 2, ends


def _same(step: dict[str, Any], got: object, wanted: object) -> None:
    if got != wanted:
        raise AssertionError(f"{step}: got {got}")
