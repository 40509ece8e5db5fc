"""Concurrent calls of one tenant share questions; nobody gets what it did not ask for."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from atlas_common.tenant import Tenant
from atlas_ingest.catalog.merging import MergedCalls

ACME, GLOBEX = Tenant(1, "acme"), Tenant(2, "globex")


class Source:
    """Answers "key" of tenant 1 with "1:key" once it is let go."""

    def __init__(self) -> None:
        self.questions: list[tuple[int, list[str]]] = []
        self.at_once = self.at_once_most = 0
        self.release = asyncio.Event()
        self.error: Exception | None = None

    async def ask(self, tenant: Tenant, keys: list[str]) -> Mapping[str, str]:
        self.questions.append((tenant.id, sorted(keys)))
        self.at_once += 1
        self.at_once_most = max(self.at_once_most, self.at_once)
        await self.release.wait()
        self.at_once -= 1
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return {key: f"{tenant.id}:{key}" for key in keys}


def merged(source: Source, *, items_max: int = 100, at_once: int = 4) -> MergedCalls[str, str]:
    return MergedCalls(source.ask, items_max=items_max, at_once=asyncio.Semaphore(at_once))


async def started(calls: Sequence["asyncio.Future[dict[str, str]]"]) -> None:
    """Let each call get as far as it can."""
    for _ in range(10 + len(calls)):
        await asyncio.sleep(0)


async def test_what_gathers_behind_a_question_is_the_next_one() -> None:
    source = Source()
    calls = merged(source)
    first = [asyncio.ensure_future(calls.get(ACME, ["a", "b"]))]
    await started(first)
    others = [asyncio.ensure_future(calls.get(ACME, ["b", f"k{n}"])) for n in range(50)]
    others += [asyncio.ensure_future(calls.get(GLOBEX, ["a"]))]
    await started(others)
    source.release.set()
    assert await first[0] == {"a": "1:a", "b": "1:b"}
    for n, call in enumerate(others[:50]):
        assert await call == {"b": "1:b", f"k{n}": f"1:k{n}"}
    assert await others[50] == {"a": "2:a"}
    assert sorted(source.questions) == [
        (1, ["a", "b"]),
        (1, sorted(f"k{n}" for n in range(50))),
        (2, ["a"]),
    ]


async def test_a_large_call_is_several_questions_of_bounded_size() -> None:
    source = Source()
    source.release.set()
    keys = [f"k{n:03}" for n in range(250)]
    assert await merged(source).get(ACME, keys) == {key: f"1:{key}" for key in keys}
    assert [len(asked) for _, asked in source.questions] == [100, 100, 50]


async def test_questions_of_all_tenants_are_bounded() -> None:
    source = Source()
    calls = merged(source, at_once=2)
    waiting = [asyncio.ensure_future(calls.get(Tenant(n, "x"), ["a"])) for n in range(1, 6)]
    await started(waiting)
    assert len(source.questions) == 2
    source.release.set()
    assert await asyncio.gather(*waiting) == [{"a": f"{n}:a"} for n in range(1, 6)]
    assert source.at_once_most == 2


async def test_a_failure_is_told_to_those_who_shared_it_alone() -> None:
    source = Source()
    calls = merged(source)
    source.error = LookupError("away")
    failing = [asyncio.ensure_future(calls.get(ACME, ["a"])) for _ in range(3)]
    await started(failing)
    fine = asyncio.ensure_future(calls.get(ACME, ["b"]))
    await started([fine])
    source.release.set()
    for call in failing:
        with pytest.raises(LookupError):
            await call
    assert await fine == {"b": "1:b"}
    assert await calls.get(ACME, ["a"]) == {"a": "1:a"}  # And it may be asked again.


async def test_a_cancelled_caller_leaves_the_others_their_answer() -> None:
    source = Source()
    calls = merged(source)
    leaving = asyncio.ensure_future(calls.get(ACME, ["a"]))
    staying = asyncio.ensure_future(calls.get(ACME, ["a"]))
    await started([leaving, staying])
    leaving.cancel()
    source.release.set()
    assert await staying == {"a": "1:a"}
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_no_items_are_no_question() -> None:
    source = Source()
    assert await merged(source).get(ACME, []) == {}
    assert source.questions == []
