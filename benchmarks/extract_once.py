"""One call of `flowpipe.extract`, named by a JSON object; prints what it took as JSON."""

import json
import resource
import sys
from typing import Any

import flowpipe


def main() -> None:
    options: dict[str, Any] = json.loads(sys.argv[1])
    result = flowpipe.extract(options.pop("sources"), options.pop("out"), **options)
    if result.failed:
        raise SystemExit(f"{result.failed} videos failed: {result.failures[0].reason}")
    numbers: dict[str, float] = {key: getattr(result, key) for key in ("flows", "seconds", "bytes")}
    numbers |= {f"{stage}_s": seconds for stage, seconds in result.stage_seconds.items()}
    for who, whose in (("worker", resource.RUSAGE_CHILDREN), ("own", resource.RUSAGE_SELF)):
        usage = resource.getrusage(whose)
        numbers[f"{who}_peak_mb"] = usage.ru_maxrss / 1024
        numbers[f"{who}_cpu_s"] = usage.ru_utime + usage.ru_stime
    print(json.dumps(numbers))


if __name__ == "__main__":
    main()
