"""Videos with labels, groups and folds: readers, official splits, random splits, generated videos.

============  ==================================================================
module        what it holds
============  ==================================================================
video         `Video`, the only record of a video, and `Dataset`
readers       one reader each for class folders, CSV files and plain lists
official      the official lists of UCF101, HMDB51 and Kinetics
segments      parts of videos, from BORIS, ELAN, Label Studio, VIA and ActivityNet
opening       `open_dataset`: any of these, the form found by looking
groups        which videos belong together, by their names
paths         paths, folders and lists → videos with names for the cache
splits        training and test halves: by fold, or at random by group
synthetic     generated videos whose classes are known by construction
time_only     generated videos in which every frame is noise, and motion draws the class
============  ==================================================================
"""

from flowpipe.datasets.groups import with_groups
from flowpipe.datasets.official import from_hmdb51, from_kinetics, from_ucf101
from flowpipe.datasets.opening import open_dataset
from flowpipe.datasets.paths import videos_of
from flowpipe.datasets.readers import from_csv, from_folders, from_list
from flowpipe.datasets.segments import from_segments
from flowpipe.datasets.splits import equal_folds, folds, grouped_by, seeded_split, split_fold
from flowpipe.datasets.video import Dataset, Span, Video

__all__ = [
    "Dataset",
    "Span",
    "Video",
    "equal_folds",
    "folds",
    "from_csv",
    "from_folders",
    "from_hmdb51",
    "from_kinetics",
    "from_list",
    "from_segments",
    "from_ucf101",
    "grouped_by",
    "open_dataset",
    "seeded_split",
    "split_fold",
    "videos_of",
    "with_groups",
]
