#!/usr/bin/env python3
"""Memory of the planners and the voter of a running testbed, in MB: resident, and shared out (PSS).

PSS counts a page that several processes share in equal parts, so its sum is what they take together.

Usage: benchmarks/idle_memory.py [--testbed caesar]
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

READ = r"""
for unit in $(systemctl list-units --plain --no-legend --state=running 'planner@*' 'caesar-voter*' | cut -d' ' -f1); do
  pid=$(systemctl show -p MainPID --value "$unit")
  awk -v unit="$unit" '/^Rss:/ {rss=$2} /^Pss:/ {pss=$2} END {print unit, rss, pss}' /proc/$pid/smaps_rollup
done
"""


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description="Memory of the planners and the voter of a running testbed.")
    parser.add_argument("--testbed", default="caesar")
    testbed = parser.parse_args().testbed
    config = Path.home() / ".local/state/caesar-testbed" / testbed / "ssh_config"
    run = ["ssh", "-F", str(config), "planner", READ]
    lines = subprocess.run(run, check=True, capture_output=True, text=True).stdout.split("\n")
    rows = [(unit, int(rss) / 1024, int(pss) / 1024) for unit, rss, pss in (line.split() for line in lines if line)]
    print(f"{'service':<40} {'resident':>9} {'PSS':>7}")
    for unit, rss, pss in rows:
        print(f"{unit:<40} {rss:>9.1f} {pss:>7.1f}")
    print(f"{'together':<40} {sum(r[1] for r in rows):>9.1f} {sum(r[2] for r in rows):>7.1f}")


if __name__ == "__main__":
    main()
