"""Letters of array axes, as they end the names of arrays: `uv_THWC`, `logits_NK`.

======  =====================================================================
letter  meaning
======  =====================================================================
B       batch
T       frames or flow fields, in time
C       channels; of a flow field: 0 = x (right positive), 1 = y (down positive)
H, W    rows, columns
S       clips per video at test time
L       flow fields per stack
K       classes
N       videos
D       features
======  =====================================================================

Flow is float32 in pixels per frame step on the grid of the earlier frame. Sizes are
`(height, width)`; times are seconds (`pts_s`); ranges are half-open, `[start, stop)`.
"""
