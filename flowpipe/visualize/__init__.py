"""What a network learned and what it looks at: filters, maximised classes, evidence in a video.

Networks stay as they were: parameters, buffers, mode and hooks. Axes: F filters, N frames of a
video; otherwise as in `flowpipe.axes`.
"""
