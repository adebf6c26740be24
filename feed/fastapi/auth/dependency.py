"""Authorization by an application around the feed: any FastAPI dependency that returns the `Grants` of a request.

FastAPI itself solves the dependency, as for a route of the application: sub-dependencies, `dependency_overrides`,
parameters from the path of the prefix, headers and cookies. It does so in a separate request, which ends before the
feed goes on. So whatever the dependencies hold, such as a database session, is given back before a stream begins, and
not days later.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Annotated, Any
from weakref import WeakKeyDictionary, proxy

from fastapi import Depends
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Message

from feed import FeedError
from feed.backoff import Reminder
from feed.fastapi.auth.grants import Grants

logger = logging.getLogger(__name__)

_GRANTS = "feed.grants"  # in the scope of the request in which the dependencies are solved

AuthorizeDependency = Callable[..., Grants | Awaitable[Grants] | Iterator[Grants] | AsyncIterator[Grants]]
"""What `feed_router` and `admin_router` take as `authorize`: a FastAPI dependency that returns `Grants`, or yields them
once. One that may return None as well does not fit."""


class NotGrants(FeedError):
    """The application's `authorize` has returned something else than `Grants`. The application's log says what."""


class Dependency:
    """An `Authorize` that asks a FastAPI dependency.

    For the dependency a WebSocket's handshake is a GET, and so a `Request`. The dependency cannot read the body, which
    is the event. The application answers `HTTPException` and the like, as on its own routes.
    """

    def __init__(self, provide: Callable[..., object], authorize: Callable[..., object] | None = None) -> None:
        """`authorize` is the application's own function, if `provide` only calls it: errors name it."""
        self.provide = provide
        self._name = _name(authorize or provide)
        self._reminder = Reminder()
        # For each application, and each set of parameters in the path. A router has a handful of these.
        self._routes: WeakKeyDictionary[Any, dict[tuple[str, ...], APIRoute]] = WeakKeyDictionary()

    async def __call__(self, connection: HTTPConnection) -> Grants:
        """Return the grants of a request. Raises `NotGrants`, `Unauthenticated` where they have expired, and what the
        dependency raises."""
        outer = connection.scope
        scope = {**outer, "type": "http", "method": outer.get("method", "GET")}
        scope.pop("starlette.exception_handlers", None)  # what is raised is raised here, and answered by the caller
        route = self._route(outer["app"], tuple(sorted(outer.get("path_params", ()))))
        await route.app(scope, _no_body, _nowhere)
        grants = scope[_GRANTS]
        if not isinstance(grants, Grants):
            what = "None" if grants is None else type(grants).__name__
            message = (
                f"authorize ({self._name}) returned {what}: it must return feed.fastapi.Grants, or raise "
                "feed.Unauthenticated, feed.Forbidden or an HTTPException"
            )
            if self._reminder.is_due(message):  # else the same line for each request
                logger.error("%s", message)
            raise NotGrants(message)
        grants.check_not_expired()
        return grants

    def _route(self, app: Any, parameters: tuple[str, ...]) -> APIRoute:
        routes = self._routes.setdefault(app, {})
        if parameters not in routes:
            routes[parameters] = APIRoute(
                "/" + "/".join(f"{{{name}}}" for name in parameters),
                _endpoint(self.provide),
                methods=["GET", "HEAD", "POST"],
                response_class=Response,
                response_model=None,
                dependency_overrides_provider=proxy(app),  # else the application would never be let go
            )
        return routes[parameters]


def solved(authorize: AuthorizeDependency) -> Dependency:
    """Return the `Authorize` that asks this dependency of an application. Raises as `dependency` does."""
    return Dependency(dependency(authorize), authorize)


def dependency(authorize: AuthorizeDependency) -> Callable[..., object]:
    """Return what FastAPI takes for a dependency. If `authorize` has one parameter without an annotation, it gets the
    connection: FastAPI would look for the parameter in the query, and answer 422 to everybody.

    Raises `TypeError` for what cannot be called, and for several such parameters.
    """
    if not callable(authorize):
        raise TypeError(
            "authorize has to be a function, or another FastAPI dependency, that returns the Grants of a request"
        )
    parameters = inspect.signature(authorize).parameters.values()
    bare = [each.name for each in parameters if each.annotation is each.empty and each.default is each.empty]
    if not bare:
        return authorize
    if len(parameters) > 1:
        raise TypeError(f"authorize: annotate {', '.join(bare)}, for example `connection: HTTPConnection`")

    async def of_connection(connection: HTTPConnection) -> object:
        grants = authorize(connection)
        return await grants if inspect.isawaitable(grants) else grants

    return of_connection


def _endpoint(provide: Callable[..., object]) -> Callable[..., Any]:
    async def keep(request: Request, grants: Annotated[Any, Depends(provide)]) -> Response:
        request.scope[_GRANTS] = grants
        return Response()

    # Postponed annotations would be looked up among this module's names, and `provide` is not among them.
    keep.__annotations__ = {"request": Request, "grants": Annotated[Any, Depends(provide)], "return": Response}
    return keep


async def _no_body() -> Message:
    raise RuntimeError("authorize cannot read the body of a request: the body is the event to publish")


async def _nowhere(_: Message) -> None:
    """Drop the answer: nobody has made this request."""


def _name(authorize: Callable[..., object]) -> str:
    named = authorize if hasattr(authorize, "__qualname__") else type(authorize)
    return f"{named.__module__}.{named.__qualname__}"
