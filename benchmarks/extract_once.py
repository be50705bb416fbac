"""One call of `flowpipe.extract`, named by a JSON object; prints what it took as JSON."""

import json
import resource
import sys
from typing import Any

from joblib.externals.loky import get_reusable_executor

import flowpipe


def main() -> None:
    options: dict[str, Any] = json.loads(sys.argv[1])
    result = flowpipe.extract(options.pop("sources"), options.pop("out"), **options)
    if result.failed:
        raise SystemExit(f"{result.failed} videos failed: {result.failures[0].reason}")
    if options.get("workers", 1) > 1:
        get_reusable_executor().shutdown(wait=True)  # a child counts in rusage when it has ended
    numbers = {key: getattr(result, key) for key in ("flows", "seconds", "bytes")}
    numbers |= {f"{stage}_s": seconds for stage, seconds in result.stage_seconds.items()}
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps({**numbers, "worker_peak_mb": usage.ru_maxrss / 1024}))


if __name__ == "__main__":
    main()
