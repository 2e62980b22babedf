"""Broken guards. Each is a patch of the source, and must fail a vector."""

import importlib.util
import unittest
from pathlib import Path
from types import ModuleType
from typing import Any

import sallyport

from .vectors import read, run_guard_case

SOURCE = Path(sallyport.__file__).parent

WATCH = "            self._unwatch = self._cache.watch(self._look)\n"
AT_MESSAGE = '''            if self._state == "open" and self._entry is not None and not self._good():
                self._suspend()
'''
TELL = "self._lease_until, until)\n        self._tell()\n"
LATER = "self._lease_until, until)\n        LATER.append(self._tell)\n"


def patched(file: str, *patches: tuple[str, str]) -> ModuleType:
    text = (SOURCE / f"{file}.py").read_text()
    for old, new in patches:
        assert text.count(old) == 1, f"the patched text is there once: {old}"
        text = text.replace(old, new)
    spec = importlib.util.spec_from_loader(f"sallyport.broken_{file}", loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__dict__["LATER"] = []
    exec(compile(text, file, "exec"), module.__dict__)
    return module


class Mutants(unittest.TestCase):
    def caught(self, guard: Any = sallyport.guard, cache: Any = sallyport.cache) -> list[str]:
        names = []
        for case in read("guard")["cases"]:
            try:
                run_guard_case(case, guard.StreamGuard, cache.FeedCache)
            except AssertionError:
                names.append(case["name"])
            for tell in cache.__dict__.get("LATER", []):
                tell()
        return names

    def test_the_vectors_pass_on_a_copy(self) -> None:
        self.assertEqual(self.caught(patched("guard"), patched("cache")), [])

    def test_m48_guard_by_timer_only(self) -> None:
        broken = patched("guard", (WATCH, "            pass\n"), (AT_MESSAGE, ""))
        self.assertGreater(len(self.caught(guard=broken)), 0)

    def test_m49_acknowledged_before_the_streams_are_suspended(self) -> None:
        self.assertGreater(len(self.caught(cache=patched("cache", (TELL, LATER)))), 0)

    def test_m50_silent_stream_forgotten(self) -> None:
        self.assertGreater(len(self.caught(guard=patched("guard", (WATCH, "            pass\n")))), 0)
