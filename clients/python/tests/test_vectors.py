import unittest
from collections.abc import Callable
from typing import Any

from sallyport.decide import TimeBounds, decide
from sallyport.guard import StreamGuard
from sallyport.offline import CHECKED_PREFIXES, refused_offline
from sallyport.requirement import Requirement, RequirementMap
from sallyport.status import refusal_of

from .vectors import facts, ns, read, requirement, run_feed_case, run_guard_case


class Vectors(unittest.TestCase):
    def each(self, name: str, run: Callable[[dict[str, Any]], None]) -> None:
        cases = read(name)["cases"]
        self.assertGreater(len(cases), 5)
        for case in cases:
            with self.subTest(case["name"]):
                run(case)

    def test_offline(self) -> None:
        def run(case: dict[str, Any]) -> None:
            token = case["token"] * case.get("repeat", 1)
            self.assertIs(refused_offline(token, case.get("prefixes", CHECKED_PREFIXES)), case["refused"])

        self.each("offline", run)

    def test_decide(self) -> None:
        def run(case: dict[str, Any]) -> None:
            time = TimeBounds(ns(case["time"]["lower"]), ns(case["time"]["upper"]))
            got = decide(facts(case["facts"]), requirement(case["requirement"]), time)
            self.assertEqual(got, (case["verdict"], tuple(case["missing"])))

        self.each("decide", run)

    def test_requirement(self) -> None:
        vectors = read("requirement")
        rules = RequirementMap({method: requirement(of) for method, of in vectors["rules"].items()})
        self.each("requirement", lambda case: self.assertEqual(rules.of(case["method"]), requirement(case["requirement"])))
        for bad in vectors["bad"]:
            with self.subTest(bad), self.assertRaises(ValueError):
                RequirementMap({bad: Requirement()})

    def test_status(self) -> None:
        def run(case: dict[str, Any]) -> None:
            code, _ = refusal_of(case["verdict"])
            self.assertEqual((code.value[0], code.name), (case["code"], case["status"]))

        self.each("status", run)

    def test_feed(self) -> None:
        self.each("feed", run_feed_case)

    def test_guard(self) -> None:
        self.each("guard", lambda case: run_guard_case(case, StreamGuard))


class Requirements(unittest.TestCase):
    def test_a_string_is_no_sequence_of_scopes(self) -> None:
        with self.assertRaises(TypeError):
            Requirement(scopes="orders.read")  # type: ignore[arg-type]

    def test_a_requirement_that_the_server_would_refuse_is_an_error(self) -> None:
        with self.assertRaises(ValueError):
            Requirement(scopes=("a",) * 33)
        with self.assertRaises(ValueError):
            Requirement(audience="a" * 257)
        with self.assertRaises(ValueError):
            Requirement(tenant="a" * 64)
        with self.assertRaises(TypeError):
            RequirementMap({"a.v1.A/B": "open"})  # type: ignore[dict-item]


if __name__ == "__main__":
    unittest.main()
