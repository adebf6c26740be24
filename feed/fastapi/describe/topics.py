"""Document typed topics: serve the AsyncAPI document, and give the models to OpenAPI."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from inspect import Parameter, Signature
from types import GenericAlias
from typing import Annotated, Any, Union, cast

from fastapi import APIRouter, Body, Request
from fastapi.sse import EventSourceResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from feed.fastapi.describe import asyncapi, openapi
from feed.fastapi.http.json_response import JsonResponse
from feed.fastapi.http.problems import SAFE
from feed.fastapi.http.request import place_of
from feed.fastapi.topics import Topic, Topics


def describe_streams(router: APIRouter, topics: Topics, *, key: bool) -> None:
    """Serve the AsyncAPI document."""
    descriptions: dict[str, Any] = {}

    @router.get("/asyncapi.json", include_in_schema=False)
    async def describe_streams(request: Request) -> Response:
        """Answer with the document, if the application shows its OpenAPI document too."""
        app = request.app
        if getattr(app, "openapi_url", None) is None:
            raise HTTPException(404)
        if not descriptions:
            title, version = app.title, app.version
            descriptions.update(asyncapi.describe(topics, title=title, version=version, key=key))
        document = asyncapi.document(place_of(request, "/asyncapi.json"), descriptions)
        response = JsonResponse(document, headers={"Cache-Control": "no-store"})
        response.raw_headers += SAFE
        return response


def document_topics(router: APIRouter, topics: Topics) -> None:
    """Add a route for OpenAPI for each address of typed topics, with its models."""
    by_address: dict[str, list[Topic[Any]]] = {}
    for topic in topics.topics:
        by_address.setdefault(topic.address, []).append(topic)
    for address, kinds in by_address.items():
        model: Any = Union.__getitem__(tuple(kind.model for kind in kinds))
        names = kinds[0].parameters
        types = {kind.type for kind in kinds}
        refusals: dict[int | str, dict[str, Any]] = {422: {}}
        router.add_api_route(
            f"/events/{address}",
            _documented(names, body=model),
            methods=["POST"],
            status_code=201,
            response_class=Response,
            response_model=None,
            responses=refusals,
            summary=f"Publish to {address}",
            openapi_extra=openapi.publish_typed(kinds[0].type if len(types) == 1 else None),
        )
        router.add_api_route(
            f"/events/{address}",
            _documented(names, gives=GenericAlias(AsyncIterable, (model,))),
            methods=["GET"],
            response_class=EventSourceResponse,
            responses=refusals,
            summary=f"Subscribe to {address}",
            openapi_extra=openapi.SUBSCRIBE_TYPED,
        )


def _documented(names: Iterable[str], *, body: Any = None, gives: Any = None) -> Callable[..., Any]:
    """Return a function from whose signature FastAPI derives these path parameters, this body, and this stream."""

    async def publish(**_: object) -> None:
        raise AssertionError("another route answers")

    async def subscribe(**_: object) -> AsyncIterator[None]:
        yield

    parameters = [Parameter(name, Parameter.KEYWORD_ONLY, annotation=str) for name in names]
    if body is not None:
        own = "data" if "data" not in names else max(names, key=len) + "_data"
        parameters.append(Parameter(own, Parameter.KEYWORD_ONLY, annotation=Annotated[body, Body()]))
    function: Any = publish if gives is None else subscribe
    function.__signature__ = Signature(parameters, return_annotation=Signature.empty if gives is None else gives)
    return cast("Callable[..., Any]", function)
