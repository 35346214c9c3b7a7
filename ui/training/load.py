"""How busy the computer is, and how much of that is one training."""

import csv
import html
import io
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil
import streamlit as st

from geoclip_core.training.runs import RunStatus, is_alive
from ui.theme import Palette, translucent

_GPU_QUERY = "name,utilization.gpu,memory.used,memory.total"
_GPU_SECONDS = 2.0


@dataclass(frozen=True)
class GpuLoad:
    """One graphics card."""

    name: str
    share: float | None
    """Busy share, 0 to 1; None where the card does not say."""
    used_bytes: float
    total_bytes: float


@dataclass(frozen=True)
class SystemLoad:
    """The computer now."""

    cpu: float
    """Busy share of all cores, 0 to 1."""
    cores: int
    memory_used: int
    memory_total: int
    disk_free: int
    """Bytes that are free where the runs are kept."""
    gpus: tuple[GpuLoad, ...] = ()


@dataclass(frozen=True)
class ProcessLoad:
    """One training with its helpers."""

    cores: float
    """How many cores it keeps busy."""
    memory: int
    """Bytes of resident memory."""


def system_load(folder: Path) -> SystemLoad:
    """Measure the computer.

    Args:
        folder: where runs are kept; it need not exist yet.
    """
    memory = psutil.virtual_memory()
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return SystemLoad(
        cpu=_cpu_share(),
        cores=psutil.cpu_count() or 1,
        memory_used=memory.total - memory.available,
        memory_total=memory.total,
        disk_free=shutil.disk_usage(place).free,
        gpus=tuple(gpu_load()),
    )


def process_load(status: RunStatus) -> ProcessLoad | None:
    """Measure the process of a run and its children; None if it is not there."""
    if status.pid is None or not is_alive(status):
        return None
    try:
        main = _process(status.pid, status.pid_started_at)
        cores, memory = main.cpu_percent(None) / 100, main.memory_info().rss
        for child in main.children(recursive=True):
            try:
                known = _process(child.pid, child.create_time())
                cores, memory = cores + known.cpu_percent(None) / 100, memory + child_memory(known)
            except psutil.Error:
                continue
    except psutil.Error:
        return None
    return ProcessLoad(cores, memory)


def child_memory(process: psutil.Process) -> int:
    """Memory that a helper does not share with its parent, where the system says so."""
    information = process.memory_info()
    return max(information.rss - getattr(information, "shared", 0), 0)


@st.cache_data(ttl=_GPU_SECONDS, show_spinner=False)
def gpu_load() -> list[GpuLoad]:
    """The NVIDIA cards, as their driver's tool reports them; none without it.

    torch is not asked: it would open a context on the card, and so take memory from the training.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, f"--query-gpu={_GPU_QUERY}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return list(_gpus(csv.reader(io.StringIO(done.stdout), skipinitialspace=True)))


def gigabytes(size: float) -> str:
    """A size in memory: "1.2 GB"."""
    return f"{size / 2**30:.1f} GB"


def load_strip(load: SystemLoad, training: ProcessLoad | None, colours: Palette) -> str:
    """The load as a row of small bars (HTML); the training's own part is the stronger colour."""
    own_cores = training.cores / load.cores if training else None
    own_memory = training.memory / load.memory_total if training else None
    cells = [
        _cell(
            "Processor",
            f"{100 * load.cpu:.0f} % of {load.cores} cores",
            f"training {training.cores:.1f} cores" if training else "",
            load.cpu,
            own_cores,
            colours,
        ),
        _cell(
            "Memory",
            f"{gigabytes(load.memory_used)} of {gigabytes(load.memory_total)}",
            f"training {gigabytes(training.memory)}" if training else "",
            load.memory_used / load.memory_total,
            own_memory,
            colours,
        ),
    ]
    for number, gpu in enumerate(load.gpus):
        busy = "busy –" if gpu.share is None else f"busy {100 * gpu.share:.0f} %"
        memory = f"{gigabytes(gpu.used_bytes)} of {gigabytes(gpu.total_bytes)}"
        share = gpu.share if gpu.share is not None else gpu.used_bytes / max(gpu.total_bytes, 1)
        name = html.escape(gpu.name)
        cells.append(_cell(f"GPU {number}, {name}", busy, memory, share, None, colours))
    cells.append(_cell("Disk", f"{gigabytes(load.disk_free)} free", "", None, None, colours))
    row = "display:flex;flex-wrap:wrap;gap:.6rem 2rem;font-size:.82rem"
    return f"<div role='group' aria-label='System load' style='{row}'>{''.join(cells)}</div>"


def _cell(
    name: str, text: str, more: str, share: float | None, own: float | None, colours: Palette
) -> str:
    bar = ""
    if share is not None:
        width, inside = (f"{100 * min(max(part or 0.0, 0.0), 1.0):.0f}%" for part in (share, own))
        fill = "position:absolute;inset:0 auto 0 0;border-radius:3px"
        weak, full = translucent(colours.candidate, 0.4), colours.candidate
        bar = (
            f"<div style='position:relative;height:5px;border-radius:3px;margin:.25rem 0;"
            f"background:{translucent(colours.muted, 0.2)}'>"
            f"<i style='{fill};width:{width};background:{weak}'></i>"
            f"<i style='{fill};width:{inside};background:{full}'></i></div>"
        )
    note = f"<div style='color:{colours.muted}'>{more}</div>" if more else ""
    return (
        f"<div style='min-width:11rem'><span style='color:{colours.muted}'>{name}</span> "
        f"<b style='font-weight:600'>{text}</b>{bar}{note}</div>"
    )


def _gpus(rows: Iterable[list[str]]) -> Iterable[GpuLoad]:
    for row in rows:
        if len(row) != 4:
            continue
        try:
            used, total = (float(cell) * 2**20 for cell in row[2:])
        except ValueError:
            continue
        busy = float(row[1]) / 100 if row[1].replace(".", "", 1).isdigit() else None
        yield GpuLoad(row[0], busy, used, total)


@st.cache_resource(max_entries=64, show_spinner=False)
def _process(pid: int, started_at: float | None) -> psutil.Process:
    # Kept, because a share of time is measured between two questions to the same object.
    process = psutil.Process(pid)
    process.cpu_percent(None)
    return process


@st.cache_data(ttl=0.5, show_spinner=False)
def _cpu_share() -> float:
    share = psutil.cpu_percent(None)
    return (share or psutil.cpu_percent(0.1)) / 100
