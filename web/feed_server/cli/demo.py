"""The readings of this machine that `feed demo` publishes: an object of numbers for each topic."""

from __future__ import annotations

import time

import msgspec
import psutil

Reading = dict[str, float]

TYPE = "reading"


class Counters(msgspec.Struct, frozen=True):
    """What the system has counted since its start, in bytes; `at` is when the counters were read, in seconds."""

    at: float
    sent: int
    received: int
    read: int
    written: int


def counters() -> Counters:
    """Read the counters. They are 0 on a machine whose network or disk cannot be asked."""
    network, disk = psutil.net_io_counters(), psutil.disk_io_counters()
    return Counters(
        time.monotonic(),
        network.bytes_sent if network else 0,
        network.bytes_recv if network else 0,
        disk.read_bytes if disk else 0,
        disk.write_bytes if disk else 0,
    )


def readings(before: Counters, now: Counters) -> dict[str, Reading]:
    """Return a reading for each topic."""
    return {
        "system/cpu": cpu(),
        "system/memory": memory(),
        "system/network": network(before, now),
        "system/disk": disk(before, now),
    }


def cpu() -> Reading:
    """Return how busy the processors were since the last call, in percent (0 at the first one), and the load averages
    of 1, 5 and 15 minutes."""
    cores: list[float] = psutil.cpu_percent(percpu=True)
    return {
        "percent": round(sum(cores) / len(cores), 1) if cores else 0.0,
        **{f"core_{number}": percent for number, percent in enumerate(cores)},
        **{f"load_{minutes}": round(load, 2) for minutes, load in zip((1, 5, 15), psutil.getloadavg(), strict=True)},
    }


def memory() -> Reading:
    """Return the use of memory and swap, in bytes and in percent."""
    main, swap = psutil.virtual_memory(), psutil.swap_memory()
    return {
        "percent": main.percent,
        "used": main.used,
        "available": main.available,
        "total": main.total,
        "swap_percent": swap.percent,
        "swap_used": swap.used,
    }


def network(before: Counters, now: Counters) -> Reading:
    """Return the traffic of all interfaces together: bytes, and bytes a second between the two counters."""
    return {
        "sent_per_second": _rate(before, now, now.sent - before.sent),
        "received_per_second": _rate(before, now, now.received - before.received),
        "sent": now.sent,
        "received": now.received,
    }


def disk(before: Counters, now: Counters) -> Reading:
    """Return how full the root file system is, in bytes and in percent, and the bytes a second of all disks between the
    two counters."""
    usage = psutil.disk_usage("/")
    return {
        "percent": usage.percent,
        "used": usage.used,
        "free": usage.free,
        "total": usage.total,
        "read_per_second": _rate(before, now, now.read - before.read),
        "written_per_second": _rate(before, now, now.written - before.written),
    }


def _rate(before: Counters, now: Counters, count: int) -> float:
    # A counter that starts again, as it does when an interface goes away, is not traffic.
    return round(max(0, count) / max(now.at - before.at, 1e-3), 1)
