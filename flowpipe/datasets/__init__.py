"""Videos with labels, groups and folds: readers, official splits, random splits, generated videos.

============  ==================================================================
module        what it holds
============  ==================================================================
video         `Video`, the only record of a video, and `Dataset`
readers       one reader each for class folders, CSV files and plain lists
official      the official lists of UCF101, HMDB51 and Kinetics
paths         paths, folders and lists → videos with names for the cache
splits        training and test halves: by fold, or at random by group
synthetic     generated videos whose classes are known by construction
============  ==================================================================
"""

from flowpipe.datasets.official import from_hmdb51, from_kinetics, from_ucf101
from flowpipe.datasets.paths import videos_of
from flowpipe.datasets.readers import from_csv, from_folders, from_list
from flowpipe.datasets.splits import equal_folds, folds, seeded_split, split_fold
from flowpipe.datasets.video import Dataset, Video

__all__ = [
    "Dataset",
    "Video",
    "equal_folds",
    "folds",
    "from_csv",
    "from_folders",
    "from_hmdb51",
    "from_kinetics",
    "from_list",
    "from_ucf101",
    "seeded_split",
    "split_fold",
    "videos_of",
]
