"""Videos with labels, groups and folds: readers, official splits, random splits, generated videos.

============  ==================================================================
module        what it holds
============  ==================================================================
video         `Video`, the only record of a video, and `Dataset`
annotations   readers of CSV files, class folders, UCF101 lists, plain lists
official      the official splits of UCF101, HMDB51 and Kinetics
splits        folds and seeded, grouped splits
synthetic     generated videos whose classes are known by construction
============  ==================================================================
"""

from flowpipe.datasets.video import Dataset, Video

__all__ = ["Dataset", "Video"]
