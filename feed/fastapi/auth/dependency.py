"""Authorization by somebody else's application: any FastAPI dependency that gives the `Grants` of a request.

FastAPI itself solves it, as it would for a route of theirs: sub-dependencies, `dependency_overrides`, parameters from
the path of the prefix, headers and cookies. It does so in a request of its own, which is over before the feed goes on:
what the dependencies hold, a database session for one, is given back before a stream begins, and not days later.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any
from weakref import WeakKeyDictionary, proxy

from fastapi import Depends
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Message

from feed.fastapi.auth.grants import Grants

_GRANTS = "feed.grants"  # in the scope of the request in which the dependencies are solved


class Dependency:
    """An `Authorize` that asks a FastAPI dependency.

    A WebSocket's handshake is a GET to it, and so a `Request`. The body is not there: it is the event. `HTTPException`
    and its kin are the application's to answer, as on its own routes.
    """

    def __init__(self, provide: Callable[..., object]) -> None:
        self._provide = provide
        # Of each application, and each set of parameters in the path, of which a router has a handful.
        self._routes: WeakKeyDictionary[Any, dict[tuple[str, ...], APIRoute]] = WeakKeyDictionary()

    async def __call__(self, connection: HTTPConnection) -> Grants:
        """See `Authorize`."""
        outer = connection.scope
        scope = {**outer, "type": "http", "method": outer.get("method", "GET")}
        scope.pop("starlette.exception_handlers", None)  # what is raised is raised here, and answered where it belongs
        route = self._route(outer["app"], tuple(sorted(outer.get("path_params", ()))))
        await route.app(scope, _no_body, _nowhere)
        grants = scope[_GRANTS]
        if not isinstance(grants, Grants):
            raise TypeError(f"authorize has to give Grants, not {type(grants).__name__}")
        return grants

    def _route(self, app: Any, parameters: tuple[str, ...]) -> APIRoute:
        routes = self._routes.setdefault(app, {})
        if parameters not in routes:
            routes[parameters] = APIRoute(
                "/" + "/".join(f"{{{name}}}" for name in parameters),
                _endpoint(self._provide),
                methods=["GET", "HEAD", "POST"],
                response_class=Response,
                response_model=None,
                dependency_overrides_provider=proxy(app),  # else the application would never be let go
            )
        return routes[parameters]


def dependency(authorize: Callable[..., object]) -> Callable[..., object]:
    """What FastAPI takes for a dependency. A function of one parameter without an annotation is one of the connection:
    FastAPI would look for it in the query, and answer 422 to everybody.

    Raises `TypeError` for what cannot be called, and for several such parameters.
    """
    if not callable(authorize):
        raise TypeError("authorize is a function, or any other FastAPI dependency, that gives the Grants of a request")
    parameters = inspect.signature(authorize).parameters.values()
    bare = [each.name for each in parameters if each.annotation is each.empty and each.default is each.empty]
    if not bare:
        return authorize
    if len(parameters) > 1:
        raise TypeError(f"authorize: annotate {', '.join(bare)}: `connection: HTTPConnection`, for one")

    async def of_connection(connection: HTTPConnection) -> object:
        grants = authorize(connection)
        return await grants if inspect.isawaitable(grants) else grants

    return of_connection


def _endpoint(provide: Callable[..., object]) -> Callable[..., Any]:
    async def keep(request: Request, grants: Annotated[Any, Depends(provide)]) -> Response:
        request.scope[_GRANTS] = grants
        return Response()

    # Postponed annotations would be looked up among this module's names, where `provide` is none.
    keep.__annotations__ = {"request": Request, "grants": Annotated[Any, Depends(provide)], "return": Response}
    return keep


async def _no_body() -> Message:
    raise RuntimeError("authorize cannot read the body of a request: it is what is published")


async def _nowhere(_: Message) -> None:
    """The answer to a request that nobody has made."""
