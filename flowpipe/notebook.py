"""What notebooks show of an object: small pieces of HTML that refer to nothing outside."""

import base64
import html
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

SHOWN_ROWS = 20


def html_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a title and a table; of many rows the first."""
    shown = rows[:SHOWN_ROWS]
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in shown
    )
    more = f"<p>and {len(rows) - len(shown)} more</p>" if len(rows) > len(shown) else ""
    return f"<p><b>{html.escape(title)}</b></p><table><tr>{head}</tr>{body}</table>{more}"


def html_picture(rgb_HWC: npt.NDArray[np.uint8], text: str) -> str:
    """Return a picture that stands in the page itself."""
    import cv2

    _, data = cv2.imencode(".png", np.ascontiguousarray(rgb_HWC[..., ::-1]))
    encoded = base64.b64encode(data.tobytes()).decode("ascii")
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{encoded}">'
