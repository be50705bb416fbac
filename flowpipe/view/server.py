"""The server of the page: on 127.0.0.1, with a token in the address; it reads and never writes.

An address holds numbers and filters, no path: nothing that a request says reaches the file system.
A request is answered only if its Host is this machine's (a foreign site's name that resolves to
127.0.0.1 is refused), its first part is the token, and its method is GET or HEAD.
"""

import hmac
import json
import secrets
import sys
import threading
from collections.abc import Callable
from dataclasses import fields
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jinja2

import flowpipe
from flowpipe.errors import FlowpipeError, InvalidArgument
from flowpipe.report import page as report_page
from flowpipe.view import pictures
from flowpipe.view.catalogue import Catalogue, Item, Query
from flowpipe.view.media import Clip

ADDRESS = "127.0.0.1"
HOSTS = (ADDRESS, "localhost")
MOST_ROWS = 400
MOST_CONFUSED = 60
Answered = tuple[str, bytes]
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
}


class PageServer(ThreadingHTTPServer):
    """Serve a catalogue; `with` closes it and removes its pictures.

    Parameters
    ----------
    catalogue : Catalogue
    port : int
        0: any that is free.

    Attributes
    ----------
    url : str
        The address of the page, with its token.
    """

    daemon_threads = True

    def __init__(self, catalogue: Catalogue, port: int = 0) -> None:
        self.catalogue = catalogue
        self.token = secrets.token_urlsafe(24)
        self.pictures = pictures.PictureStore()
        self._making = threading.BoundedSemaphore(4)
        try:
            super().__init__((ADDRESS, port), _Handler)
        except (OSError, OverflowError) as error:
            self.pictures.close()
            raise InvalidArgument(
                f"port {port} cannot be opened ({error}); 0 takes any that is free",
                parameter="port",
            ) from error
        self.hosts = {f"{host}:{self.server_port}" for host in HOSTS}
        self.url = f"http://{ADDRESS}:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that no longer wants what it asked for."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def server_close(self) -> None:
        super().server_close()
        self.catalogue.quality.stop.set()
        self.pictures.close()

    @cached_property
    def routes(self) -> dict[str, Callable[[dict[str, str]], Answered]]:
        """What there is, by the last part of the address."""
        return {
            "": self._page,
            "view.css": lambda given: _filled("view.css", "css"),
            "view.js": lambda given: _filled("view.js", "javascript"),
            "about": _as_json(self._about),
            "rows": _as_json(self._rows),
            "video": _as_json(self._video),
            "motion": _as_json(self._motion),
            "picture": self._picture,
            "wheel": lambda given: ("image/png", pictures.png(pictures.wheel())),
        }

    def _page(self, given: dict[str, str]) -> Answered:
        return _filled("view.html", "html", title=self.catalogue.title)

    def _about(self, given: dict[str, str]) -> Any:
        catalogue, by = self.catalogue, given.get("by", "")
        if given.get("scan"):
            catalogue.quality.start()
        confusion = catalogue.confusion(by)
        if confusion is not None and len(confusion["classes"]) > MOST_CONFUSED:
            cells = [cell for cell in confusion["cells"] if cell[0] != cell[1]]
            confusion["worst"] = sorted(cells, key=lambda cell: -cell[2])[:MOST_CONFUSED]
        return {
            "title": catalogue.title,
            "kind": catalogue.kind,
            "total": len(catalogue),
            "states": catalogue.states(by),
            "checked": catalogue.quality.share,
            "classes": catalogue.classes(by),
            "has_truth": catalogue.has_truth,
            "has_pictures": catalogue.media.has_entries or catalogue.media.videos is not None,
            "answered_by": catalogue.answered_by,
            "recipes": catalogue.recipes,
            "facts": catalogue.facts,
            "notes": catalogue.notes,
            "confusion": confusion,
            "version": flowpipe.__version__,
        }

    def _rows(self, given: dict[str, str]) -> Any:
        known = {field.name for field in fields(Query)}
        query = Query(**{key: value for key, value in given.items() if key in known})  # type: ignore[arg-type]
        found = self.catalogue.find(query)
        start = _number(given, "start", 0)
        count = min(_number(given, "count", 60), MOST_ROWS)
        rows = [self._row(number, query.by) for number in found[start : start + count]]
        return {"total": len(found), "start": start, "rows": rows}

    def _row(self, number: int, by: str) -> dict[str, Any]:
        item, answer = self.catalogue.items[number], self.catalogue.answer(number, by)
        row: dict[str, Any] = {"item": number, "name": item.name, "labels": item.labels}
        if answer is not None:
            row |= {"said": answer.label, "score": round(answer.score, 4)}
            row |= {"right": answer.is_right, "unsure": answer.is_unsure}
        if item.failure:
            row["failure"] = item.failure
        if suspicions := self.catalogue.quality.suspicions.get(number):
            row["suspicions"] = suspicions
        if item.recipe and len(self.catalogue.recipes) > 1:
            row["recipe"] = self.catalogue.recipes.get(item.recipe, item.recipe)
        return row

    def _item(self, given: dict[str, str]) -> tuple[int, Item]:
        number = _number(given, "item")
        if number >= len(self.catalogue):
            raise InvalidArgument(f"there is no row {number}; there are {len(self.catalogue)}")
        return number, self.catalogue.items[number]

    def _clip(self, item: Item) -> Clip:
        return self.catalogue.media.clip(item.name, item.recipe)

    def _video(self, given: dict[str, str]) -> Any:
        number, item = self._item(given)
        record = self._row(number, given.get("by", "")) | self.catalogue.details(item)
        record["suspicions"] = self.catalogue.quality.of(number) if item.recipe else ()
        try:
            clip = Clip() if item.failure else self._clip(item)
            times_s, tracks = clip.times_s, clip.tracks
        except FlowpipeError as error:  # a damaged entry still has a row, scores and a reason
            return record | {"problem": str(error), "times_s": [], "tracks": [], "facts": []}
        entry = getattr(clip.entry, "entry", clip.entry) or clip.features
        facts = [] if entry is None else _entry_facts(entry)
        if clip.video is not None:
            info = clip.video.info
            facts.append(("video", f"{info.path.name}, {info.width}×{info.height}, {info.codec}"))
        spans = [] if clip.features is None else clip.features.span_s.round(3).tolist()
        length_s = max(
            [record.get("length_s", 0.0), *times_s[-1:], *(end for _, end in spans[-1:])]
        )
        return record | {
            "times_s": [round(t, 4) for t in times_s],
            "tracks": tracks,
            "scale_px": pictures.scale_of(clip) if "flow" in tracks else None,
            "features": None if clip.features is None else list(clip.features.features.shape),
            "spans_s": spans[:1] + spans[-1:],
            "size": clip.size,
            "length_s": length_s,
            "facts": facts,
        }

    def _motion(self, given: dict[str, str]) -> Any:
        _, item = self._item(given)
        clip = self._clip(item)
        return pictures.motion_of(clip) if clip.num_flows else []

    def _picture(self, given: dict[str, str]) -> Answered:
        number, item = self._item(given)
        track = given.get("track", "thumbnail")
        if item.failure:
            raise InvalidArgument(f"there is no picture of a video that failed: {item.failure}")
        if track == "thumbnail":
            return "image/jpeg", self._kept(
                f"t{number}", lambda: pictures.thumbnail(self._clip(item))
            )
        if track == "features":
            store = self._clip(item).features
            if store is None:
                raise InvalidArgument("this row has no features")
            strip = store.features
            return "image/jpeg", self._kept(
                f"s{number}", lambda: pictures.features_picture(strip[:])
            )
        at, clip = _number(given, "at", 0), self._clip(item)
        if at >= len(clip.times_s):
            raise InvalidArgument(f"there is no frame {at}; there are {len(clip.times_s)}")
        if track == "frame":
            return "image/jpeg", self._kept(f"f{number}-{at}", lambda: clip.frame(at))
        if track == "flow":
            scale_px = _scale(given)
            key = f"v{number}-{at}-{scale_px:g}"
            return "image/jpeg", self._kept(key, lambda: pictures.flow_picture(clip, at, scale_px))
        raise InvalidArgument(f'track "{track}" is none of thumbnail, frame, flow, features')

    def _kept(self, key: str, make: Callable[[], Any]) -> bytes:
        def made() -> bytes:
            with self._making:  # a fling through the grid asks for a hundred at once
                return pictures.jpeg(make())

        return self.pictures.get(f"{key}.jpg", made)


def _as_json(answer: Callable[[dict[str, str]], Any]) -> Callable[[dict[str, str]], Answered]:
    def answered(given: dict[str, str]) -> Answered:
        text = json.dumps(answer(given), ensure_ascii=False, separators=(",", ":"), default=str)
        return "application/json; charset=utf-8", text.encode()

    return answered


def _number(given: dict[str, str], name: str, default: int | None = None) -> int:
    text = given.get(name, "" if default is None else str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise InvalidArgument(f'{name} "{text:.20}" must be a whole number from 0')
    return int(text)


def _scale(given: dict[str, str]) -> float:
    text = given.get("scale", "5")
    try:
        scale_px = float(text)
    except ValueError:
        scale_px = 0.0
    if not 0.01 <= scale_px <= 10_000:
        raise InvalidArgument(f'scale "{text:.20}" must be a number of px from 0.01 to 10,000')
    return scale_px


def _entry_facts(entry: Any) -> list[tuple[str, str]]:
    facts = [("recipe", entry.recipe.describe()), ("recipe id", entry.recipe.id)]
    for key in sorted(entry.attributes):
        value = entry.attributes[key]
        if key in ("recipe", "format"):
            continue
        try:
            table = json.loads(value) if isinstance(value, str) else value
        except ValueError:
            table = value
        if isinstance(table, dict):
            facts += [(f"{key}: {name}", str(one)) for name, one in table.items()]
        elif value != "":
            facts.append((key.replace("_", " "), str(value)))
    return facts


def _filled(name: str, kind: str, **values: Any) -> Answered:
    """Return a file of the page; its style includes that of the reports."""
    folders = [Path(__file__).parent / "page", Path(report_page.__file__).parent / "templates"]
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
    )
    text = templates.get_template(name).render(values)
    return f"text/{kind}; charset=utf-8", text.encode()


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: PageServer
    server_version, sys_version = "flowpipe", ""
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        status, kind, body = self._answer()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        keep = kind.startswith("image/") and status == HTTPStatus.OK
        self.send_header("Cache-Control", "private, max-age=3600" if keep else "no-store")
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def _answer(self) -> tuple[HTTPStatus, str, bytes]:
        plain = "text/plain; charset=utf-8"
        if self.headers.get("Host", "").lower() not in self.server.hosts:
            return HTTPStatus.FORBIDDEN, plain, b"this page is for this machine only"
        address = urlsplit(self.path)
        _, token, *rest = [*address.path.split("/"), ""]
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            return HTTPStatus.FORBIDDEN, plain, b"the address lacks its token"
        route = self.server.routes.get("/".join(rest[:-1])) if len(rest) == 2 else None
        if route is None:
            return HTTPStatus.NOT_FOUND, plain, b"there is no such page"
        try:
            return HTTPStatus.OK, *route(dict(parse_qsl(address.query)))
        except InvalidArgument as error:
            return HTTPStatus.BAD_REQUEST, plain, str(error).encode()
        except FlowpipeError as error:
            return HTTPStatus.UNPROCESSABLE_ENTITY, plain, str(error).encode()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing of each request."""
