"""Every benchmark in turn: `python -m benchmarks` (about ten minutes). Prints markdown."""

from __future__ import annotations

from benchmarks import client_overhead, consistency, search_requests

if __name__ == "__main__":
    print("## Consistency solver\n")
    consistency.main()
    print("\n## Client\n")
    client_overhead.measure_overhead()
    client_overhead.measure_local()
    print("## Search\n")
    search_requests.main()
