"""Flow on a GPU: one server in the parent process computes for all workers, in batches.

Workers decode, compress and write as always, each its own video; only the frames go to the server
and the fields come back, through memory that both processes map ("slots", two for each video: one
is computed while the next is filled). The server takes all that waits for it, of whatever videos,
as one batch, so that batches grow where the GPU is what is waited for. A slot is not filled again
before its fields are fetched: this bounds what waits.

A worker that dies closes its connection, and costs nobody else anything. Frames the method refuses
cost their video; a GPU that fails ends the run.
"""

import contextlib
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowpipe.cache import FlowRecipe
from flowpipe.errors import DeviceError, FlowError, InvalidArgument
from flowpipe.flow import BATCHED, BatchFlowMethod, create_batched
from flowpipe.video import Frame

SLOTS = 2
"""Of a video: one is filled while the other is computed."""

SLOT_PAIRS, SLOT_PIXELS = 32, 4_000_000
"""Most pairs in a slot, and most pixels, but one pair always."""

BATCH_PIXELS = 16_000_000
"""Of a batch; the solver needs about 120 bytes for each."""

BACKLOG = 64
"""Workers that may wait to be connected."""

SHARED_MEMORY = Path("/dev/shm")


class Address(NamedTuple):
    """Where a server listens, its key, folders for slots (the better first); what computes."""

    place: str
    key: bytes
    folders: tuple[str, ...]
    software: Mapping[str, str]


DEVICES = ("cpu", "cuda", "auto")

TORCH_DEVICE = "cuda"
"""On which the batched methods run; tests have it on the CPU."""


def choose_device(flow: str, wanted: str) -> tuple[str, str]:
    """Decide who computes a method.

    Parameters
    ----------
    flow : str
        Name of the method.
    wanted : "cpu", "cuda" or "auto"

    Returns
    -------
    device : "cpu" or "cuda"
    reason : str
        For a person who wanted "auto".

    Raises
    ------
    InvalidArgument
        For another word, and where "cuda" cannot be: no GPU, or the method has no form for it.
    """
    if wanted not in DEVICES:
        raise InvalidArgument(f'device "{wanted}" must be one of {", ".join(DEVICES)}')
    if wanted == "cpu":
        return "cpu", "device cpu, as asked for"
    hindrance = None
    if flow not in BATCHED:
        hindrance = f'flow "{flow}" has no form for a GPU, as {", ".join(BATCHED)} have'
    elif (name := gpu_name()) is None:
        hindrance = "PyTorch finds no CUDA GPU"
    if hindrance is None:
        return "cuda", f"device cuda: {name}"
    if wanted == "cuda":
        raise InvalidArgument(
            f"device cuda: {hindrance}; give --device cpu, or auto to take a GPU where it can be"
        )
    return "cpu", f"device cpu: {hindrance}"


def gpu_name() -> str | None:
    """Give the name of the first CUDA GPU that PyTorch can use."""
    import torch  # takes seconds: only who asks for a GPU shall pay

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def batched_method(flow: str, device: str, **parameters: Any) -> BatchFlowMethod:
    """Make the batched form of a method for a recipe's device."""
    if device != "cuda":
        raise InvalidArgument(f'device "{device}" computes no batches; it must be cuda')
    return create_batched(flow, TORCH_DEVICE, **parameters)


@contextlib.contextmanager
def serving(recipe: FlowRecipe) -> "Iterator[FlowServer | None]":
    """Run a server for a recipe of a GPU; none for one of the CPU."""
    if recipe.device == "cpu":
        yield None
        return
    parameters = dict(recipe.flow_parameters)
    methods = [batched_method(recipe.flow, recipe.device, **parameters) for _ in range(2)]
    with FlowServer(methods, backward=recipe.backward) as server:
        yield server


@dataclass
class Slot:
    """Memory shared by a worker and the server: frames of one video, then their fields."""

    frames_NHW: NDArray[np.uint8]
    flow_NHWC: NDArray[np.float32]
    file: Path
    named: bool = True

    @classmethod
    def open(cls, file: Path, num_frames: int, height: int, width: int, *, new: bool) -> "Slot":
        """Map a slot; `new` makes its file and raises OSError where there is no room."""
        frames_bytes = num_frames * height * width
        # Fields start at a whole number of float32.
        offset = -(-frames_bytes // 4) * 4
        size = offset + (num_frames - 1) * height * width * 2 * 4
        if new:
            _reserve(file, size)
        memory: NDArray[np.uint8] = np.memmap(file, np.uint8, mode="r+", shape=(size,))
        return cls(
            memory[:frames_bytes].reshape(num_frames, height, width),
            memory[offset:].view(np.float32).reshape(num_frames - 1, height, width, 2),
            file,
        )


def _reserve(file: Path, size: int) -> None:
    """Make a file that really has its bytes: a hole in a full memory file system kills."""
    with file.open("xb") as made:
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(made.fileno(), 0, size)
            else:
                made.truncate(size)
        except OSError:
            file.unlink()
            raise


def flows_from_server(
    address: Address, frames: Iterator[Frame], seconds: dict[str, float]
) -> Iterator[tuple[Frame, NDArray[np.float32] | None]]:
    """Give each frame of a video with the field that leads to it (None for the first).

    A field is good until the next is asked for.

    Parameters
    ----------
    address : Address
        Of a `FlowServer`.
    frames : iterator of Frame
        All of one size.
    seconds : dict
        Time in "decode" and, waiting for the server, in "flow" is added to it.

    Raises
    ------
    FlowError
        If the method refuses the frames.
    DeviceError
        If the server is gone.
    """
    with _Customer(address, seconds) as server:
        run: list[Frame] = []
        first = True
        clock = time.perf_counter()
        for frame in frames:
            seconds["decode"] += time.perf_counter() - clock
            run.append(frame)
            if first:
                yield frame, None
                first = False
            elif len(run) > slot_pairs(frame.grey_HW.shape):
                yield from server.exchange(run)
                # The last frame of a run is the first of the next.
                run = run[-1:]
            clock = time.perf_counter()
        seconds["decode"] += time.perf_counter() - clock
        if len(run) > 1:
            yield from server.exchange(run)
        yield from server.rest()


def slot_pairs(shape_HW: Sequence[int]) -> int:
    """Give how many pairs of frames of a size go into a slot."""
    return max(1, min(SLOT_PAIRS, SLOT_PIXELS // (shape_HW[0] * shape_HW[1])))


class _Customer:
    """A worker's side: fills slots in turn, fetches their fields in order."""

    def __init__(self, address: Address, seconds: dict[str, float]) -> None:
        self._address = address
        self._seconds = seconds
        self._slots: list[Slot] = []
        self._waiting: deque[tuple[int, list[Frame]]] = deque()
        self._answers: dict[int, str] = {}

    def __enter__(self) -> "_Customer":
        with self._telling():
            self._connection = Client(self._address.place, authkey=self._address.key)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()
        for slot in self._slots:
            if slot.named:
                slot.file.unlink(missing_ok=True)

    def exchange(self, run: list[Frame]) -> Iterator[tuple[Frame, NDArray[np.float32]]]:
        """Send a run of frames; give the fields of an earlier one if all slots were full."""
        number = self._next_number()
        if len(self._waiting) == SLOTS:
            yield from self._fetch()
        shape = run[0].grey_HW.shape
        if number == len(self._slots):
            self._slots.append(self._new_slot(slot_pairs(shape) + 1, *shape))
        slot = self._slots[number]
        for place, frame in enumerate(run):
            slot.frames_NHW[place] = frame.grey_HW
        with self._telling():
            self._connection.send((number, str(slot.file), slot.frames_NHW.shape, len(run)))
        self._waiting.append((number, run[1:]))

    def rest(self) -> Iterator[tuple[Frame, NDArray[np.float32]]]:
        """Give the fields of all runs that are still out."""
        while self._waiting:
            yield from self._fetch()

    def _next_number(self) -> int:
        if len(self._waiting) == SLOTS:
            return self._waiting[0][0]
        return (self._waiting[-1][0] + 1) % SLOTS if self._waiting else 0

    def _fetch(self) -> Iterator[tuple[Frame, NDArray[np.float32]]]:
        number, frames = self._waiting.popleft()
        clock = time.perf_counter()
        with self._telling():
            while number not in self._answers:
                answered, failure = self._connection.recv()
                self._answers[answered] = failure
        self._seconds["flow"] += time.perf_counter() - clock
        if failure := self._answers.pop(number):
            raise FlowError(failure)
        slot = self._slots[number]
        if slot.named:
            # The server has it mapped too: without a name it cannot be left behind.
            slot.file.unlink()
            slot.named = False
        yield from zip(frames, slot.flow_NHWC, strict=False)

    def _new_slot(self, num_frames: int, height: int, width: int) -> Slot:
        for folder in self._address.folders:
            file = Path(folder) / f"slot-{os.getpid()}-{time.monotonic_ns()}"
            try:
                return Slot.open(file, num_frames, height, width, new=True)
            except OSError as error:
                failure = error
        raise DeviceError(f"no room for frames on their way to the GPU: {failure}")

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError, FileNotFoundError) as error:
            raise DeviceError("the process that computes flow on the GPU is gone") from error


@dataclass
class _Request:
    """One filled slot of a worker."""

    connection: "Connection[Any, Any]"
    lock: threading.Lock
    number: int
    frames_NHW: NDArray[np.uint8]
    flow_NHWC: NDArray[np.float32]

    def answer(self, failure: str = "") -> None:
        # The worker may have died meanwhile: its video is the pool's to report.
        with self.lock, contextlib.suppress(OSError):
            self.connection.send((self.number, failure))


@dataclass
class FlowServer:
    """Computes flow for workers until it is closed; a context manager.

    Parameters
    ----------
    methods : sequence of BatchFlowMethod
        One for each batch that may be in work at once: with two, one batch is copied while the
        other is computed. Each is used by one thread.
    backward : bool
        Compute the field from the later frame to the earlier one.

    Attributes
    ----------
    failure : BaseException or None
        What ended the server: everything it is asked afterwards is refused.
    busy_s : float
        Time in which at least one batch was in work.
    """

    methods: Sequence[BatchFlowMethod]
    backward: bool = False
    failure: BaseException | None = None
    busy_s: float = 0.0
    _in_work: int = 0
    _since: float = 0.0
    _waiting: deque[_Request] = field(default_factory=deque)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _closing: bool = False

    def __enter__(self) -> "FlowServer":
        with contextlib.ExitStack() as stack:
            folders = [stack.enter_context(_folder(None))]
            if os.access(SHARED_MEMORY, os.W_OK):
                folders.insert(0, stack.enter_context(_folder(SHARED_MEMORY)))
            key = os.urandom(32)
            self._listener = stack.enter_context(Listener(authkey=key, backlog=BACKLOG))
            self.address = Address(
                str(self._listener.address), key, tuple(folders), dict(self.methods[0].software)
            )
            self._threads = [self._start(self._accept)]
            self._threads += [self._start(self._work, method) for method in self.methods]
            stack.callback(self._stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def check(self) -> None:
        """Raise what ended the server, if anything did.

        Raises
        ------
        DeviceError
            With the cause.
        """
        if self.failure is not None:
            told = f"{type(self.failure).__name__}: {self.failure}".strip().splitlines()[0]
            raise DeviceError(
                f"flow on the GPU failed: {told}; what was done is kept, the same command goes on"
            ) from self.failure

    def _start(self, target: Callable[..., None], *arguments: Any) -> threading.Thread:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        thread.start()
        return thread

    def _stop(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        # accept() wakes for a connection only. No key: where a late worker has ended the thread
        # already, nobody would answer.
        with contextlib.suppress(OSError, EOFError):
            Client(self.address.place).close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self._closing:
            # A worker that died while it connected is no reason to stop.
            with contextlib.suppress(OSError, EOFError, AuthenticationError):
                connection = self._listener.accept()
                self._start(self._listen, connection)

    def _listen(self, connection: "Connection[Any, Any]") -> None:
        lock = threading.Lock()
        slots: dict[int, Slot] = {}
        with contextlib.suppress(EOFError, OSError), connection:
            while True:
                number, file, shape, count = connection.recv()
                if number not in slots:
                    slots[number] = Slot.open(Path(file), *shape, new=False)
                slot = slots[number]
                request = _Request(
                    connection,
                    lock,
                    number,
                    slot.frames_NHW[:count],
                    slot.flow_NHWC[: count - 1],
                )
                with self._changed:
                    self._waiting.append(request)
                    self._changed.notify()

    def _work(self, method: BatchFlowMethod) -> None:
        while requests := self._next_batch():
            if self.failure is None:
                self._compute(method, requests)
            else:
                for request in requests:
                    request.answer("the GPU failed")

    def _next_batch(self) -> list[_Request]:
        """Give all that waits and is of the size of the oldest, up to a batch; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if self._closing:
                return []
            oldest = self._waiting[0].frames_NHW
            room = max(1, BATCH_PIXELS // oldest[0].size)
            taken: list[_Request] = []
            left: deque[_Request] = deque()
            for request in self._waiting:
                pairs = len(request.flow_NHWC)
                fits = not taken or pairs <= room
                if request.frames_NHW.shape[1:] == oldest.shape[1:] and fits:
                    taken.append(request)
                    room -= pairs
                else:
                    left.append(request)
            self._waiting = left
            return taken

    def _compute(self, method: BatchFlowMethod, requests: list[_Request]) -> None:
        prev_BHW = np.concatenate([request.frames_NHW[:-1] for request in requests])
        next_BHW = np.concatenate([request.frames_NHW[1:] for request in requests])
        try:
            with self._counting():
                uv_BHWC = method.batch(
                    *((next_BHW, prev_BHW) if self.backward else (prev_BHW, next_BHW))
                )
        except FlowError as error:
            if len(requests) == 1:
                requests[0].answer(str(error))
                return
            # One of them is at fault: the others shall not pay.
            for request in requests:
                self._compute(method, [request])
            return
        except Exception as error:
            self.failure = error
            for request in requests:
                request.answer("the GPU failed")
            return
        first = 0
        for request in requests:
            last = first + len(request.flow_NHWC)
            request.flow_NHWC[:] = uv_BHWC[first:last]
            first = last
            request.answer()

    @contextlib.contextmanager
    def _counting(self) -> Iterator[None]:
        """Count the time as busy, once for batches that are in work together."""
        with self._changed:
            if self._in_work == 0:
                self._since = time.perf_counter()
            self._in_work += 1
        try:
            yield
        finally:
            with self._changed:
                self._in_work -= 1
                if self._in_work == 0:
                    self.busy_s += time.perf_counter() - self._since


@contextlib.contextmanager
def _folder(parent: Path | None) -> Iterator[str]:
    with tempfile.TemporaryDirectory(
        prefix="flowpipe-", dir=parent, ignore_cleanup_errors=True
    ) as folder:
        yield folder
