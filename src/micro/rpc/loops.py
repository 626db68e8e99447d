"""One event loop for all handlers.

The server runs WebSockets on a thread and loop of their own. A handler may not notice: its connections, locks and tasks
belong to the loop that the service started on. So a WebSocket's conversation runs there, and its frames cross over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from micro.rpc.receive import Receive
from micro.rpc.send import Send


async def over(
    loop: asyncio.AbstractEventLoop, serve: Callable[[Receive, Send], Awaitable[None]], receive: Receive, send: Send
) -> None:
    """Run `serve` on `loop`, with `receive` and `send` that do their work here. Cancelling it cancels it there."""
    here = asyncio.get_running_loop()

    async def take() -> Any:
        return await receive()

    async def give(message: Any) -> None:
        await send(message)

    async def receive_from_here() -> Any:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(take(), here))

    async def send_from_here(message: Any) -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(give(message), here))

    async def there() -> None:
        await serve(receive_from_here, send_from_here)

    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(there(), loop))
