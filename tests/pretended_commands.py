"""Run every method and command on a pretended device and print a line of JSON for each; see `pretended`.

python -m tests.pretended_commands KIND FOLDER [BYTES]
"""

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from tests import pretended

machine = pretended.start(sys.argv[1], capacity=int(sys.argv[3]) if len(sys.argv) > 3 else 80 << 30)

import curate  # noqa: E402
from curate import methods  # noqa: E402
from tests.scoring import make_project  # noqa: E402

FEW = {"magic": {"steps": 3, "batch_size": 8, "runs": 1}}


def main() -> None:
    folder = make_project(Path(sys.argv[2]), 8, 4)
    common = {"target": str(folder / "val.jsonl"), "pool": str(folder / "pool"), "model": str(folder / "proxy")}
    common |= {"background": 16}
    report = lambda name, work: _report(name, work)  # noqa: E731
    for method in methods.names():
        options = FEW.get(method, {})
        report(f"score {method}", lambda m=method, o=options: curate.score(out=folder / m, method=m, **common, **o))


def _report(name: str, work: Callable[[], object]) -> None:
    machine.waits.clear()
    error = ""
    try:
        work()
    except Exception:
        error = traceback.format_exc()
    print(
        json.dumps({"name": name, "error": error, "waits": machine.waits.most_common(40), "peak": machine.peak}),
        flush=True,
    )


if __name__ == "__main__":
    main()
