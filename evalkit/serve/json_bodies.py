"""How a body becomes JSON: as every JSON file of evalkit does, so that a key twice is refused and not half read."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from evalkit.codec import RepeatedKey, parse_json
from evalkit.serve.errors import BodyError


class JsonRoute(APIRoute):
    """A route whose bodies are read by `_JsonRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return handle_json


class _JsonRequest(Request):
    async def json(self) -> Any:
        """Raises BodyError."""
        raw = await self.body()
        try:
            return parse_json(raw.decode(json.detect_encoding(raw), "surrogatepass"))
        except RepeatedKey as error:
            raise BodyError(f"the body is ambiguous: {error}; send it once", error.key) from None
        except ValueError as error:
            raise BodyError(f"the body is no JSON ({error}); send an object in UTF-8") from None
