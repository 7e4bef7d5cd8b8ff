"""Clients that go away, at every moment."""

import asyncio
from contextlib import aclosing

import pytest
from skingpt_edge.runtime.serve.model_process import Asked, ModelProcess
from skingpt_edge.runtime.serve.settings import Settings


@pytest.mark.parametrize("turns", range(6))
def test_a_request_that_is_cancelled_just_when_an_event_comes_ends(turns):
    """`turns` of the event loop later; a deadline runs, as while an answer is generated."""
    taken = []

    async def consume(asked: Asked) -> None:
        async with aclosing(ModelProcess(Settings(""))._events(asked)) as events:
            async for event in events:
                taken.append(event)

    async def scene() -> None:
        asked = Asked()
        task = asyncio.create_task(consume(asked))
        asked.events.put_nowait({"kind": "text", "text": "first"})
        await asyncio.sleep(0.01)
        asked.events.put_nowait({"kind": "text", "text": "second"})
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=60)
        task.cancel()
        assert done and task.cancelled()

    asyncio.run(scene())
    assert taken[0]["text"] == "first"
