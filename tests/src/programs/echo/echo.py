"""`serve PORT`: a child for every connection gives its bytes back. `HOST PORT BYTES COUNT`: sends, receives and compares."""
import asyncio
import os
import socketserver
import sys


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)


class Server(socketserver.ForkingTCPServer):
    allow_reuse_address = True


async def one(host, port, size):
    wanted = os.urandom(size)
    reader, writer = await asyncio.open_connection(host, port)

    async def send():
        writer.write(wanted)
        await writer.drain()
        writer.write_eof()

    _, got = await asyncio.gather(send(), reader.read())
    writer.close()
    if got != wanted:
        sys.exit(f"{len(got)} bytes came back, not the {size} that were sent")


if sys.argv[1] == "serve":
    Server(("0.0.0.0", int(sys.argv[2])), Handler).serve_forever()
host, port, size, count = sys.argv[1], *map(int, sys.argv[2:5])
for _ in range(count):
    asyncio.run(one(host, port, size))
print("same")
