"""The answers of one stream, or of several fused, for each test video; and their file.

A score file is an `.npz` archive without a pickled object:

=================  =====================================================
member             content
=================  =====================================================
header.npy         uint8: UTF-8 JSON with `format`, `version`, `ids`,
                   `classes`, `stream`, `protocol`, `activation`
labels.npy         N int64, −1 where the class is unknown
targets.npy        N×K bool, only where videos have several labels
probabilities.npy  N×K float64
logits.npy         N×K float32
=================  =====================================================
"""

import io
import json
import math
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from flowpipe.atomic import write_aside
from flowpipe.errors import (
    CacheError,
    EntryCorrupt,
    InvalidArgument,
    UnknownName,
    is_refusal,
    nearest_name,
)

FORMAT = "flowpipe scores"
VERSION = 1
MAX_BYTES = 2**31
_ARRAYS = {
    "labels.npy": "labels_N",
    "targets.npy": "targets_NK",
    "probabilities.npy": "probabilities_NK",
    "logits.npy": "logits_NK",
}
# float32 softmax summed over some hundred classes strays by about 1e-5.
SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Scores:
    """Scores of N videos over K classes; arrays are checked, copied and made read-only.

    Parameters
    ----------
    ids : tuple of N str
        Video ids, each once.
    labels_N : array of N int64
        True classes, `[0, K)`; −1 where unknown. Of several labels the first.
    probabilities_NK : array of N×K float64
        Mean over a video's clips and crops of the softmax probabilities; rows sum to one.
    logits_NK : array of N×K float32
        Mean over a video's clips and crops of the network's logits.
    classes : tuple of K str
        Class names, each once, two at least.
    stream : str
        What gave the scores: "rgb", "flow", "rgb+flow".
    protocol : mapping
        How: clips, crops, checkpoint, fold…; JSON-able.
    activation : {"softmax", "sigmoid"}
        What made probabilities of logits. Those of a sigmoid stand each for itself, in 0 to 1,
        and need not sum to one.
    targets_NK : array of N×K bool, optional
        Which classes each video has, where some have several; `labels_N` is then the first.

    Raises
    ------
    InvalidArgument
        If anything above does not hold.
    """

    ids: tuple[str, ...]
    labels_N: npt.NDArray[np.int64]
    probabilities_NK: npt.NDArray[np.float64]
    logits_NK: npt.NDArray[np.float32]
    classes: tuple[str, ...]
    stream: str
    protocol: Mapping[str, Any] = field(default_factory=dict)
    activation: Literal["softmax", "sigmoid"] = "softmax"
    targets_NK: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__  # the dataclass is frozen
        put(self, "ids", _checked_names(self.ids, "video ids"))
        put(self, "classes", _checked_names(self.classes, "classes"))
        if not isinstance(self.stream, str) or not self.stream:
            raise InvalidArgument(f"stream {self.stream!r} must be a name, such as rgb or flow")
        if len(self.ids) < 1 or len(self.classes) < 2:
            raise InvalidArgument(
                f"{len(self.ids)} videos and {len(self.classes)} classes: scores need one video "
                "and two classes at least"
            )
        put(self, "labels_N", _checked_labels(self.labels_N, len(self.ids), len(self.classes)))
        put(self, "targets_NK", self._checked_targets())
        put(self, "probabilities_NK", self._checked_rows(self.probabilities_NK, np.float64))
        put(self, "logits_NK", self._checked_rows(self.logits_NK, np.float32))
        self._check_probabilities()
        put(self, "protocol", _checked_protocol(self.protocol))

    @property
    def predictions_N(self) -> npt.NDArray[np.int64]:
        """The most probable class of each video; of equal ones the first."""
        best: npt.NDArray[np.int64] = self.probabilities_NK.argmax(axis=1).astype(np.int64)
        return best

    @property
    def correct_N(self) -> npt.NDArray[np.bool_]:
        """Whether the most probable class of each video is its own, or one of its own."""
        if self.targets_NK is None:
            correct: npt.NDArray[np.bool_] = self.predictions_N == self.labels_N
        else:
            correct = self.targets_NK[np.arange(len(self.ids)), self.predictions_N]
        return correct

    def select(self, ids: Sequence[str]) -> "Scores":
        """Give the scores of these videos, in this order.

        Raises
        ------
        UnknownName
            For an id that has no scores.
        """
        rows = {video_id: row for row, video_id in enumerate(self.ids)}
        for video_id in ids:
            if video_id not in rows:
                raise UnknownName(
                    f'no scores of video "{video_id}"{nearest_name(video_id, self.ids)} among '
                    f"the {len(self.ids)} of stream {self.stream}"
                )
        order = np.array([rows[video_id] for video_id in ids], np.int64)
        return Scores(
            ids=tuple(ids),
            labels_N=self.labels_N[order],
            probabilities_NK=self.probabilities_NK[order],
            logits_NK=self.logits_NK[order],
            classes=self.classes,
            stream=self.stream,
            protocol=self.protocol,
            activation=self.activation,
            targets_NK=None if self.targets_NK is None else self.targets_NK[order],
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a score file, whole or not at all; the folder is made when missing.

        Raises
        ------
        InvalidArgument
            If the name does not end in .npz.
        """
        target = Path(path)
        if target.suffix != ".npz":
            raise InvalidArgument(f"score file {target} must end in .npz")
        header = {
            "format": FORMAT,
            "version": VERSION,
            "ids": self.ids,
            "classes": self.classes,
            "stream": self.stream,
            "protocol": self.protocol,
            "activation": self.activation,
        }
        several: dict[str, Any] = {} if self.targets_NK is None else {"targets": self.targets_NK}
        text = json.dumps(header, ensure_ascii=False, allow_nan=False).encode()
        target.parent.mkdir(parents=True, exist_ok=True)
        with write_aside(target) as file:
            np.savez_compressed(
                file,
                header=np.frombuffer(text, np.uint8),
                labels=self.labels_N,
                probabilities=self.probabilities_NK,
                logits=self.logits_NK,
                **several,
            )
        return target

    def __repr__(self) -> str:
        known = int(np.count_nonzero(self.labels_N >= 0))
        return (
            f"Scores(stream={self.stream!r}, videos={len(self.ids)} ({known} labelled), "
            f"classes={len(self.classes)}, probabilities_NK={self.probabilities_NK.shape}, "
            f"logits_NK={self.logits_NK.shape})"
        )

    def _checked_rows(self, values: npt.ArrayLike, dtype: type[Any]) -> npt.NDArray[Any]:
        name = "probabilities" if dtype is np.float64 else "logits"
        rows: npt.NDArray[Any] = np.array(values, dtype, order="C")
        wanted = (len(self.ids), len(self.classes))
        if rows.shape != wanted:
            raise InvalidArgument(
                f"{name} of shape {rows.shape} must be {wanted}, videos × classes"
            )
        broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if broken.size:
            raise InvalidArgument(
                f'{name} of video "{self.ids[broken[0]]}" and {broken.size - 1} others are not '
                "finite; look for NaN in the network or its input"
            )
        rows.flags.writeable = False
        return rows

    def _checked_targets(self) -> npt.NDArray[np.bool_] | None:
        if self.targets_NK is None:
            return None
        targets: npt.NDArray[Any] = np.array(self.targets_NK)
        wanted = (len(self.ids), len(self.classes))
        if targets.shape != wanted or targets.dtype != np.bool_:
            raise InvalidArgument(
                f"targets of shape {targets.shape} and type {targets.dtype} must be {wanted}, "
                "videos × classes, of bool"
            )
        known_N = self.labels_N >= 0
        own_N = targets[np.arange(len(targets)), self.labels_N]
        if not own_N[known_N].all() or targets[~known_N].any():
            raise InvalidArgument(
                "targets and labels disagree; a label is the first of a video's targets"
            )
        targets.flags.writeable = False
        return targets

    def _check_probabilities(self) -> None:
        if self.activation not in ("softmax", "sigmoid"):
            raise InvalidArgument(f'activation "{self.activation}" must be softmax or sigmoid')
        if self.activation == "sigmoid":
            if self.probabilities_NK.min() < 0 or self.probabilities_NK.max() > 1:
                raise InvalidArgument(
                    "probabilities must lie in 0 to 1: pass the network's logits through a sigmoid"
                )
            return
        sums_N = self.probabilities_NK.sum(axis=1)
        wrong = (np.abs(sums_N - 1) > SUM_TOLERANCE) | (self.probabilities_NK < 0).any(axis=1)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise InvalidArgument(
                f'probabilities of video "{self.ids[row]}" sum to {sums_N[row]:.6g}, lowest '
                f"{self.probabilities_NK[row].min():.6g}; they must be ≥ 0 and sum to 1: "
                "pass the network's logits through a softmax first"
            )


def load_scores(path: str | os.PathLike[str]) -> Scores:
    """Read a score file; nothing is ever unpickled, and nothing larger than 2 GiB is unpacked.

    Raises
    ------
    InvalidArgument
        If there is no file at `path`.
    EntryCorrupt
        If the file is not a score file, or a damaged one; the message says in what.
    """
    source = Path(path)
    if not source.is_file():
        raise InvalidArgument(
            f"no score file at {source}; flowpipe train and flowpipe test write one for each stream"
        )
    try:
        with zipfile.ZipFile(source) as archive:
            members = {info.filename: _read_array(archive, info) for info in archive.infolist()}
        if lacking := {"header.npy", *_ARRAYS} - {"targets.npy"} - members.keys():
            raise ValueError(f"{', '.join(sorted(lacking))} missing")
        header = _read_header(members["header.npy"])
        return Scores(
            **{field: members[name] for name, field in _ARRAYS.items() if name in members},
            ids=header["ids"],
            classes=header["classes"],
            stream=header["stream"],
            protocol=header["protocol"],
            activation=header.get("activation", "softmax"),
        )
    # What zipfile, zlib and numpy raise for foreign and damaged bytes, and Scores for wrong values.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError, ValueError) as error:
        if is_refusal(error):
            raise CacheError(f"{source} cannot be read: {error.strerror}") from error
        raise EntryCorrupt(f"{source} is no score file of flowpipe, or damaged: {error}") from error


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> npt.NDArray[Any]:
    """Read one array; nothing is allocated by a size that only a header claims."""
    if info.file_size > MAX_BYTES:
        raise ValueError(f"{info.filename} claims {info.file_size} bytes; {MAX_BYTES} is the limit")
    file = io.BytesIO(archive.read(info))
    if npy_format.read_magic(file) != (1, 0):
        raise ValueError(f"{info.filename} is no array of .npy version 1.0")
    shape, _, dtype = npy_format.read_array_header_1_0(file)
    claimed, there = math.prod(shape) * dtype.itemsize, info.file_size - file.tell()
    if claimed != there or dtype.kind not in "biuf":
        raise ValueError(
            f"{info.filename} of {dtype} and shape {shape} has {there} bytes; "
            "it must hold numbers, as many as it says"
        )
    file.seek(0)
    return npy_format.read_array(file, allow_pickle=False)


def _read_header(raw: npt.NDArray[Any]) -> dict[str, Any]:
    if raw.dtype != np.uint8 or raw.ndim != 1:
        raise ValueError(f"header of type {raw.dtype} and shape {raw.shape} must be bytes")
    try:
        header = json.loads(raw.tobytes())
    except RecursionError as error:
        raise ValueError("header is nested too deeply") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f'its header does not say "{FORMAT}"')
    if header.get("version") != VERSION:
        raise ValueError(
            f"its version is {header.get('version')!r}, this flowpipe reads {VERSION}; update"
        )
    missing = {"ids", "classes", "stream", "protocol"} - header.keys()
    if missing:
        raise ValueError(f"its header lacks {', '.join(sorted(missing))}")
    return header


def _checked_names(names: object, kind: str) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise InvalidArgument(f"{kind} {names!r:.60} must be a sequence of texts")
    checked = tuple(names)
    for name in checked:
        if not isinstance(name, str) or not name:
            raise InvalidArgument(f"{kind} hold {name!r}; each must be a text that is not empty")
    if len(set(checked)) < len(checked):
        (twice, _), *_ = Counter(checked).most_common(1)
        raise InvalidArgument(f'{kind} hold "{twice}" more than once; each must stand once')
    return checked


def _checked_labels(
    values: npt.ArrayLike, num_videos: int, num_classes: int
) -> npt.NDArray[np.int64]:
    raw: npt.NDArray[Any] = np.asarray(values)
    if raw.shape != (num_videos,) or not np.issubdtype(raw.dtype, np.integer):
        raise InvalidArgument(
            f"labels of shape {raw.shape} and type {raw.dtype} must be {num_videos} whole numbers, "
            "one per video"
        )
    labels = raw.astype(np.int64)
    outside = labels[(labels < -1) | (labels >= num_classes)]
    if outside.size:
        raise InvalidArgument(
            f"label {outside[0]} must lie in [0, {num_classes}), or be −1 for unknown"
        )
    labels.flags.writeable = False
    return labels


def _checked_protocol(protocol: object) -> dict[str, Any]:
    if not isinstance(protocol, Mapping):
        raise InvalidArgument(f"protocol {protocol!r:.60} must be a dict")
    try:
        copied = json.loads(json.dumps(dict(protocol), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"protocol cannot be written as JSON ({error}); use texts, numbers, lists and dicts"
        ) from error
    return copied  # type: ignore[no-any-return]
