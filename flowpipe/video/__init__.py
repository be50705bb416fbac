"""A video file as frames: decode, rotation, grey, size, rate by timestamp (PyAV, libavcodec).

In: a path. Out: `Frame` records in presentation order, one at a time, so that memory does not
grow with the length of the video. Header counts are never used; a damaged video gives the
frames that decode, and `VideoReader.problem` says what is missing. The sample aspect ratio is
not applied and interlaced frames are taken as they are.
"""

from flowpipe.video.decoding import MAX_PIXELS
from flowpipe.video.files import VIDEO_EXTENSIONS, content_digest, find_videos
from flowpipe.video.pictures import GREY_RULE, RESIZE_RULE, output_size
from flowpipe.video.reader import Frame, VideoInfo, VideoReader, probe
from flowpipe.video.times import fps_rule

__all__ = [
    "GREY_RULE",
    "MAX_PIXELS",
    "RESIZE_RULE",
    "VIDEO_EXTENSIONS",
    "Frame",
    "VideoInfo",
    "VideoReader",
    "content_digest",
    "find_videos",
    "fps_rule",
    "output_size",
    "probe",
]
