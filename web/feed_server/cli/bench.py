"""`feed bench`: the options, what is shown while a measurement runs, and the exit code."""

from __future__ import annotations

import contextlib
import enum
import re
import secrets
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from feed_server.bench.measure import Round, Show
    from feed_server.bench.plan import Plan
    from feed_server.bench.targets import Target

_RATE = re.compile(r"(\d+(?:\.\d+)?)(?:/(s|m))?")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|)")
_SOAK = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|)")
_SOAK_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
_SOAK_OPTIONS = {"soak", "log", "readers", "transport", "publishers", "rate", "data", "json"}


class ScenarioName(enum.StrEnum):
    """What to measure."""

    FANOUT = "fanout"
    PUBLISH = "publish"
    IDLE = "idle"
    STORM = "storm"
    STATE = "state"


class Transport(enum.StrEnum):
    """How the readers read."""

    SSE = "sse"
    WS = "ws"
    WS_BATCH = "ws-batch"


class Peer(enum.StrEnum):
    """The other server to compare with."""

    NCHAN = "nchan"
    NAIVE = "naive"
    TOKEN = "token"  # noqa: S105  it is a name
    ASGI = "asgi"


_READERS = {ScenarioName.PUBLISH: 0, ScenarioName.STORM: 5000, ScenarioName.STATE: 200}
_STATE_RATE = 20_000.0


def _rate(text: str) -> float:
    found = _RATE.fullmatch(text)
    if found is None or float(found[1]) <= 0:
        raise typer.BadParameter("a rate is a number of events per second or minute: 1/s, 200/s, 30/m")
    return float(found[1]) / (60 if found[2] == "m" else 1)


def _duration(option: str, text: str) -> float:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{option}: a duration is a number of seconds, or one with ms or s: 5ms, 0.1s")
    return float(found[1]) / (1000 if found[2] == "ms" else 1)


def _soak_seconds(text: str) -> float:
    found = _SOAK.fullmatch(text)
    if found is None or not float(found[1]):
        raise typer.BadParameter("a duration is a number of seconds, or one with s, m or h: 90s, 20m")
    return float(found[1]) * _SOAK_SECONDS[found[2]]


def _steps(text: str) -> list[int]:
    try:
        steps = [int(step) for step in text.split(",")]
    except ValueError:
        steps = []
    if len(steps) < 2 or steps != sorted(set(steps)) or steps[0] < 0:
        raise typer.BadParameter("--steps: steps are at least two rising numbers: 0,2000,5000,10000")
    return steps


def bench(
    context: typer.Context,
    scenario: Annotated[
        ScenarioName,
        typer.Argument(
            metavar="[SCENARIO]",
            help="fanout: readers and publishers. publish: publishers, and a server that logs its requests. idle: "
            "memory of readers that get nothing. storm: all readers reconnect at once, and replay. state: first loads "
            "with latest=1, publishing beside readers of state, and slow readers of topics that change all the time.",
        ),
    ] = ScenarioName.FANOUT,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Measure a feed that runs already; its CPU and memory are not measured."),
    ] = None,
    log: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="The log of the server: memory: (the default), sqlite: (in a temporary directory) or sqlite:PATH, "
            "redis: (a redis-server of the bench's own, which keeps nothing on disk) or redis://HOST:PORT/DB (yours; "
            "each run uses a stream of its own and removes it afterwards). May be repeated, to compare several.",
        ),
    ] = None,
    nodes: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Compare N nodes (feed serve) that share one Redis with a single node, and print the ratios. The "
            "readers and publishers are spread over the nodes.",
        ),
    ] = 1,
    against: Annotated[
        list[Peer] | None,
        typer.Option(
            metavar="nchan|naive|token|asgi",
            help="Run the same load on another server in turn, and print the ratios; may be repeated. nchan: nginx "
            "with nchan. naive: FastAPI WebSockets and asyncio.gather. token: the same feed with a key, where all "
            "publishers and readers send a token. asgi: with publish, an application under uvicorn that does nothing "
            "but answer 201, which shows what a request costs at least.",
        ),
    ] = None,
    readers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="The number of readers. [default: 1000; publish: none; storm: 5000; state: 200 slow ones; --soak: "
            "500]",
        ),
    ] = None,
    transport: Annotated[
        Transport, typer.Option(metavar="sse|ws|ws-batch", help="How the readers read.")
    ] = Transport.SSE,
    publishers: Annotated[int, typer.Option(metavar="N", min=1, help="The number of publishers at once.")] = 16,
    rate: Annotated[
        float | None,
        typer.Option(
            parser=_rate,
            metavar="N/s",
            help="Events per second of all publishers together. Unless set, each publishes as fast as it is answered; "
            "state: 20000/s to the hot topics.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="Events in one publish.")] = 1,
    text: Annotated[bool, typer.Option("--text", help="Publish text, not JSON.")] = False,
    apart: Annotated[
        bool, typer.Option("--apart", help="Send the head and the body of a publish apart, as most clients do.")
    ] = False,
    data: Annotated[int, typer.Option(metavar="BYTES", help="The size of an event's data.")] = 200,
    seconds: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="How long a round is measured.")] = 5.0,
    warmup: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="How long a round runs before it is measured.")
    ] = 1.0,
    rounds: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="The number of rounds, each on a new server. [default: 5; state: 1]"),
    ] = None,
    probe: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="The time between two health checks, which show when the server's event loop stalls; 0: no checks. "
            "Each check costs the server a request.",
        ),
    ] = "50ms",
    rest: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="How long the readers wait between two looks at their sockets. They then read several events at once "
            "and need less of their core, and acknowledge later, like readers that far away. Latency includes it.",
        ),
    ] = "0",
    steps: Annotated[
        str, typer.Option(metavar="N,N,…", help="idle: the numbers of readers to measure with.")
    ] = "0,2000,5000,10000",
    behind: Annotated[
        int, typer.Option(metavar="N", min=1, help="storm: the events that each reader has missed.")
    ] = 500,
    topics: Annotated[
        int, typer.Option(metavar="N", min=1, max=50_000, help="state: the topics of a first load.")
    ] = 10_000,
    hot: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, max=50_000, help="state: the topics that are published to while slow readers read them."
        ),
    ] = 1_000,
    reading: Annotated[
        float,
        typer.Option(
            metavar="BYTES",
            min=1,
            help="state: the bytes a second that a slow reader reads. The slow readers are watched for as long as it "
            "takes one of them to read the hot topics three times.",
        ),
    ] = 10_000,
    soak: Annotated[
        float | None,
        typer.Option(
            parser=_soak_seconds,
            metavar="TIME",
            help="Churn for this time, such as 20m, instead of measuring rounds. Readers of every kind come, stall, "
            "leave in every way and come back with their last id, while the server's memory, descriptors, threads and "
            "tasks are watched. Exit code 1 for an event that was lost, doubled or out of order, and for resources "
            "that were not released. Takes --log, --readers, --transport (default: all), --publishers, --rate "
            "(default: 200/s), --data and --json.",
        ),
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all results to this file, as JSON.")] = None,
) -> None:
    """Measure a feed.

    The bench starts a server on a core of its own, opens readers, publishes, and checks that every reader got every
    event once and in order; the exit code is 1 if not. Latency counts from the time when an event was to be sent until
    its arrival.

    Each node, and the redis-server of --log redis:, has a core of its own if there are enough cores for them and the
    load. If not, they share the cores that are left beside one for the load, and the report says so: the result then
    shows how much CPU a delivery costs, but not what several nodes deliver together.

    Example: feed bench fanout --readers 1000 --rate 200/s
    """
    if soak is not None:
        given = _given(context)
        if useless := sorted(given - _SOAK_OPTIONS):
            raise typer.BadParameter(f"--soak: cannot be combined with {', '.join(useless)}")
        if len(log or []) > 1:
            raise typer.BadParameter("--soak: takes one --log")
        forms = [transport.value] if "transport" in given else None
        if not _soak(soak, (log or ["memory:"])[0], readers, publishers, rate, data, forms, json):
            raise typer.Exit(1)
        return

    from feed_server.bench.plan import Plan, Scenario

    plan = Plan(
        scenario=Scenario(scenario.value),
        targets=_targets(url, log or ["memory:"], nodes, against or [], logs_requests=scenario is ScenarioName.PUBLISH),
        transport=transport.value,
        readers=readers or _READERS.get(scenario, 1000),
        publishers=publishers,
        rate=rate or (_STATE_RATE if scenario is ScenarioName.STATE else None),
        seconds=seconds,
        warmup=warmup,
        rounds=rounds or (1 if scenario is ScenarioName.STATE else 5),
        size=data,
        batch=batch,
        probe=_duration("--probe", probe) or None,
        rest=_duration("--rest", rest),
        steps=_steps(steps),
        behind=behind,
        topics=topics,
        hot=hot,
        reading=reading,
        is_text=text,
        apart=apart,
    )
    plan.check()
    if json is not None:
        _check_writable(json)
    signal.signal(signal.SIGTERM, _leave)
    if not _measure(plan, json):
        raise typer.Exit(1)


def _given(context: typer.Context) -> set[str]:
    """Return the names of the options that were given on the command line."""
    sources = ((name, context.get_parameter_source(name)) for name in context.params)
    return {name for name, source in sources if source is not None and source.name != "DEFAULT"}


def _soak(
    seconds: float,
    log: str,
    readers: int | None,
    publishers: int,
    rate: float | None,
    size: int,
    forms: list[str] | None,
    json: Path | None,
) -> bool:
    """Run the soak. Return whether everything was right."""
    from rich.console import Console

    from feed_server.bench.cores import share_cores
    from feed_server.bench.soak.report import report, write_json
    from feed_server.bench.soak.run import Plan, soak
    from feed_server.bench.soak.streams import Form

    wanted = [Form(form) for form in forms] if forms else list(Form)
    plan = Plan(seconds, log, wanted, readers or 500, publishers, rate or 200.0, size)
    plan.check()
    if json is not None:
        _check_writable(json)
    signal.signal(signal.SIGTERM, _leave)
    cores = share_cores(redis=plan.owns_redis)
    with _shown(Console(stderr=True, highlight=False)) as show:
        show.line(f"{plan.description}; {cores}")
        outcome = soak(plan, cores, show)
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False)
    for line in report(outcome):
        console.print(line, soft_wrap=True)
    if json is not None:
        write_json(outcome, json, sys.argv[1:])
    return not outcome.faults


def _check_writable(file: Path) -> None:
    """Raise `BadParameter` for a file that cannot be written: before a run of minutes, not after it."""
    try:
        file.open("a").close()
    except OSError as error:
        raise typer.BadParameter(f"--json {file}: {error.strerror}") from None


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """Exit as on Ctrl-C, so that everything that was started is ended too."""
    raise SystemExit(128 + number)


def _targets(url: str | None, logs: list[str], nodes: int, peers: list[Peer], *, logs_requests: bool) -> list[Target]:
    from feed_server.bench.targets import AsgiTarget, FeedTarget, FeedUrlTarget, NaiveTarget, NchanTarget

    level = "info" if logs_requests else "warning"
    kinds: dict[Peer, Callable[[], Target]] = {
        Peer.NCHAN: NchanTarget,
        Peer.NAIVE: NaiveTarget,
        Peer.TOKEN: lambda: FeedTarget(logs[0], key=secrets.token_hex(32), log_level=level),
        Peer.ASGI: AsgiTarget,
    }
    feeds: list[Target] = []
    if url is not None:
        if nodes > 1:
            raise typer.BadParameter(
                "--nodes: cannot be combined with --url: a feed that runs already has the nodes that it has"
            )
        feeds = [FeedUrlTarget(url)]
    elif nodes > 1:
        feeds = [
            FeedTarget(log, count, named=True, log_level=level) for log in dict.fromkeys(logs) for count in (nodes, 1)
        ]
    else:
        feeds = [FeedTarget(log, log_level=level) for log in dict.fromkeys(logs)]
    return feeds + [kinds[peer]() for peer in dict.fromkeys(peers)]


def _measure(plan: Plan, json: Path | None) -> bool:
    """Run all rounds. Return whether everything was right."""
    from rich.console import Console

    from feed_server.bench.measure import run
    from feed_server.bench.report import Report, write_json
    from feed_server.bench.scenarios import PLAYS
    from feed_server.cli.bench_report import print_report

    cores = plan.cores()
    rounds = []
    with _shown(Console(stderr=True, highlight=False)) as show:
        show.line(f"{plan.description}; {cores}")
        for round in run(plan, cores, show, PLAYS[plan.scenario]):
            rounds.append(round)
            show.line(_summary(round, plan))
    report = Report(plan, cores, rounds)
    width = None if sys.stdout.isatty() else 200
    print_report(report, Console(width=width, highlight=False, markup=False))
    if json is not None:
        write_json(report, json, sys.argv[1:])
    return not report.faults


def _summary(round: Round, plan: Plan) -> str:
    from feed_server.bench.report import FIGURES

    facts = [
        f"{figure.label} {round.figures[figure.name] / figure.divisor:,.{figure.digits}f}"
        for figure in FIGURES
        if figure.name in round.figures
    ][:4]
    wrong = f"; WRONG: {round.faults[0]}" if round.faults else ""
    return f"round {round.number}/{plan.rounds}, {round.target}: {'; '.join(facts)}{wrong}"


class _Plain:
    """Progress for a pipe or a file: only the lines that stay."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def status(self, text: str) -> None:
        """Show nothing: the text is only for a terminal."""

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text, markup=False, soft_wrap=True)


class _Lively(_Plain):
    """Progress for a terminal: a line that changes, below those that stay."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.spinner = console.status("")

    def status(self, text: str) -> None:
        """Show what is being done now."""
        from rich.markup import escape

        self.spinner.update(escape(text))


@contextlib.contextmanager
def _shown(console: Console) -> Iterator[Show]:
    if not console.is_terminal:
        yield _Plain(console)
        return
    show = _Lively(console)
    with show.spinner:
        yield show
