"""An OpenAI-compatible endpoint on loopback, on which one can be badly treated."""

import asyncio
import json
import re
import threading
import time
from collections import Counter

NAME = re.compile(r"Define this [\w ]+(?: of a measurement)?: (.*)")


def completion(text="It is known by its features.", finish_reason="stop", **message):
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": text, **message}}],
        "usage": {"prompt_tokens": 200, "completion_tokens": 50, "total_tokens": 250},
    }


class ModelServer:
    """`behave(name, times)` says what becomes of the `times`-th (from 1) request for a concept's name (or what `named` finds in its prompt).

    It gives a text to answer with, or a dictionary: status, headers, body (bytes or JSON), hang (seconds), broken (True).
    """

    def __init__(self):
        self.behave = lambda name, times: f"{name} is known by its features."
        self.named = lambda prompt: NAME.search(prompt)[1]
        self.requests, self.headers, self.names, self.at = [], [], Counter(), {}
        self.listing = {"status": 404}  # not every server has one
        self.slots = asyncio.Semaphore(1000)  # how many it works on at once; it goes on with those that nobody waits for any more
        self.seconds, self.now, self.most, self.connections = 0.0, 0, 0, 0

    def __enter__(self):
        self.loop, started = asyncio.new_event_loop(), threading.Event()

        async def serve():
            self.server = await asyncio.start_server(self.talk, "127.0.0.1", 0)
            self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/v1"
            started.set()

        def run():
            asyncio.set_event_loop(self.loop)
            self.loop.create_task(serve())
            self.loop.run_forever()

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        started.wait()
        return self

    def __exit__(self, *_):
        async def end():
            self.server.close()
            others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def talk(self, reader, writer):
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if ": " in line)
                headers = {name.lower(): value for name, value in headers.items()}
                if head.startswith(b"GET "):  # the list of models
                    await self.write(writer, self.listing)
                    continue
                body = json.loads(await reader.readexactly(int(headers["content-length"])))
                self.now += 1
                self.most = max(self.most, self.now)
                try:
                    if not await self.answer(body, headers, writer):
                        break
                finally:
                    self.now -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, body, headers, writer) -> bool:
        self.requests.append(body)
        self.headers.append(headers)
        name = self.named(body["messages"][1]["content"])
        self.names[name] += 1
        self.at.setdefault(name, []).append(time.monotonic())
        async with self.slots:
            await asyncio.sleep(self.seconds)
        does = self.behave(name, self.names[name])
        does = {"body": completion(does)} if isinstance(does, str) else does
        await asyncio.sleep(does.get("hang", 0))
        await self.write(writer, does)
        return not does.get("broken")

    async def write(self, writer, does):
        content = does.get("body", {"error": {"message": "no", "type": "x", "code": does.get("code")}})
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        lines = [
            f"HTTP/1.1 {does.get('status', 200)} X",
            "Content-Type: application/json",
            f"Content-Length: {len(content)}",
            *(f"{name}: {value}" for name, value in does.get("headers", {}).items()),
        ]
        if does.get("broken"):
            content = content[: len(content) // 2]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
        await writer.drain()
