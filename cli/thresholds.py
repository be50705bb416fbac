"""How thresholds of overlap are written on the command line, and named in JSON."""

import click

MOST = 1000


def parse_thresholds(
    context: click.Context, option: click.Parameter, text: str | None
) -> tuple[float, ...] | None:
    """Read `.3,.5` or `.3:.1:.7` (start:step:last)."""
    if text is None:
        return None
    try:
        if ":" in text:
            start, step, last = map(float, text.split(":"))
            count = round((last - start) / step) + 1
            if count > MOST:
                raise click.BadParameter(f'"{text}" are {count} thresholds; {MOST} is the most')
            found = [round(start + step * place, 6) for place in range(count)]
            found = found if last >= start and found[-1] <= last + 1e-6 else []
        else:
            found = [float(part) for part in text.split(",") if part.strip()]
    except (ValueError, ZeroDivisionError):
        found = []
    if not found or not all(0 < value <= 1 for value in found):
        raise click.BadParameter(f'"{text}" must be .3,.5 or start:step:last as in .3:.1:.7')
    return tuple(dict.fromkeys(found))


def by_threshold(thresholds: tuple[float, ...], values: list[float]) -> dict[str, float]:
    """Return {"0.5": value, …}."""
    return {f"{key:g}": value for key, value in zip(thresholds, values, strict=True)}
