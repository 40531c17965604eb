"""Free memory of this machine, or of the container of this process."""

import os
from pathlib import Path


def available_memory() -> int:
    """Bytes that can be had without swapping: free memory and page cache, or what a container's limit leaves."""
    fields = _fields(Path("/proc/meminfo"))
    free = fields["MemAvailable"] * 1024 if "MemAvailable" in fields else _free_pages()
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        cache = _fields(group / "memory.stat").get("inactive_file", 0)
        return free if limit == "max" else max(0, min(free, int(limit) - int(used) + cache))
    except (OSError, ValueError):
        return free


def _fields(file: Path) -> dict[str, int]:
    """Return `name value` or `name: value kB` of each line as a dictionary; {} if the file does not exist."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    return {parts[0].rstrip(":"): int(parts[1]) for parts in map(str.split, lines) if parts[1:] and parts[1].isdigit()}


def _free_pages() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
