"""A proxy on a unix socket that can swallow what the server answers, and cut connections."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Self


class Proxy:
    """Passes bytes both ways; with ``swallow`` set, an answer that follows a request holding it is lost."""

    def __init__(self, server: Path) -> None:
        self.socket = server.with_name("proxy")
        self.url = f"unix://{self.socket}?db=0"
        self.swallow: bytes | None = None
        self.swallowed = 0
        self._server = server
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._listening = await asyncio.start_unix_server(self._connected, self.socket)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listening is not None
        self._listening.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            far_reader, far_writer = await asyncio.open_unix_connection(self._server)
        except OSError:
            writer.close()
            return
        try:
            with suppress(OSError):
                await self._pass(reader, writer, far_reader, far_writer)
        finally:
            writer.close()
            far_writer.close()
            self._tasks.discard(task)

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        # The client has one request on its way at a time, so request and answer alternate.
        near = asyncio.ensure_future(reader.read(1 << 20))
        far = asyncio.ensure_future(far_reader.read(1 << 20))
        lost = False
        try:
            while True:
                await asyncio.wait((near, far), return_when=asyncio.FIRST_COMPLETED)
                if near.done():
                    data = near.result()
                    if not data:
                        return
                    lost |= self.swallow is not None and self.swallow in data
                    far_writer.write(data)
                    near = asyncio.ensure_future(reader.read(1 << 20))
                if far.done():
                    answer = far.result()
                    if not answer:
                        return
                    if lost:
                        self.swallow, self.swallowed = None, self.swallowed + 1
                        return
                    writer.write(answer)
                    far = asyncio.ensure_future(far_reader.read(1 << 20))
        finally:
            near.cancel()
            far.cancel()
            await asyncio.gather(near, far, return_exceptions=True)
