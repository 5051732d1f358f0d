"""Wall time and peak memory of a whole command, its children included.

    python bench/measure.py make book

Memory is the sum of the resident sets of all its processes, sampled every 0.2 s; pages that processes share are counted
once for each, so the figure is an upper bound.
"""

import subprocess
import sys
import time
from contextlib import suppress

import psutil


def peak_memory(process: subprocess.Popen) -> int:
    """Bytes: the largest sum of resident sets of ``process`` and its children, watched until it ends."""
    family, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        resident = 0
        try:
            for member in [family, *family.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    resident += member.memory_info().rss
        except psutil.NoSuchProcess:
            pass
        peak = max(peak, resident)
        time.sleep(0.2)
    return peak


def main() -> int:
    started = time.perf_counter()
    process = subprocess.Popen(sys.argv[1:])
    peak = peak_memory(process)
    seconds = time.perf_counter() - started
    print(f"{' '.join(sys.argv[1:])}: {seconds:.1f} s, peak {peak / 2**20:,.0f} MiB, exit {process.returncode}")
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
