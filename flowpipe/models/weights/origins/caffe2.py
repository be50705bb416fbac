"""The video model zoo of PySlowFast: Caffe2 names, in pickles that must be converted first.

`res2_0_branch2a_w` and so on; t_ before the fast pathway; statistics rm and riv. Networks and what
they compute are PySlowFast's.
"""

import re

from flowpipe.models.weights.origins.base import Origin, Rule, rename_by
from flowpipe.models.weights.origins.pyslowfast import one_pathway, preprocessing, read

_KINDS = {
    "w": "weight",
    "b": "bias",
    "bn_s": "weight",
    "bn_b": "bias",
    "bn_rm": "running_mean",
    "bn_riv": "running_var",
}
_KIND = r"(?P<kind>bn_(?:s|b|rm|riv)|w|b)$"
_RES = r"(?P<fast>t_)?res(?P<stage>\d)_(?P<block>\d+)_"


def _path(match: re.Match[str], layer: str, norm: str) -> str:
    """Return our name; `layer` has the weight, `norm` the normalisation."""
    where = norm if match["kind"].startswith("bn_") else layer
    return f"{'fast.' if match['fast'] else 'slow.'}{where}.{_KINDS[match['kind']]}"


def _block(match: re.Match[str], layer: str, norm: str) -> str:
    before = f"layer{int(match['stage']) - 1}.{match['block']}."
    return _path(match, before + layer, before + norm)


def _lateral(match: re.Match[str], number: int) -> str:
    part = 1 if match["kind"].startswith("bn_") else 0
    return f"lateral.{number}.{part}.{_KINDS[match['kind']]}"


RULES: tuple[Rule, ...] = (
    (r"t_pool1_subsample_" + _KIND, lambda m: _lateral(m, 0)),
    (
        r"t_res(?P<stage>\d)_\d+_branch2c_bn_subsample_" + _KIND,
        lambda m: _lateral(m, int(m["stage"]) - 1),
    ),
    (r"(?P<fast>t_)?conv1_(?P<kind>w)$", lambda m: _path(m, "conv1", "")),
    (r"(?P<fast>t_)?res_conv1_" + _KIND, lambda m: _path(m, "", "bn1")),
    (_RES + r"branch1_" + _KIND, lambda m: _block(m, "downsample.0", "downsample.1")),
    (
        _RES + r"branch2(?P<conv>[abc])_" + _KIND,
        lambda m: _block(m, f"conv{'_abc'.index(m['conv'])}", f"bn{'_abc'.index(m['conv'])}"),
    ),
    (
        r"nonlocal_conv(?P<stage>\d)_(?P<block>\d+)_(?P<conv>theta|phi|g|out)_(?P<kind>w|b)$",
        lambda m: (
            f"slow.layer{int(m['stage']) - 1}.{m['block']}_nonlocal.{m['conv']}.{_KINDS[m['kind']]}"
        ),
    ),
    (
        r"nonlocal_conv(?P<stage>\d)_(?P<block>\d+)_" + _KIND,
        lambda m: f"slow.layer{int(m['stage']) - 1}.{m['block']}_nonlocal.bn.{_KINDS[m['kind']]}",
    ),
    (r"pred_(?P<kind>w|b)$", lambda m: f"fc.{_KINDS[m['kind']]}"),
)

ORIGIN = Origin(
    name="caffe2",
    title="PySlowFast's Caffe2 zoo",
    url="https://github.com/facebookresearch/SlowFast/blob/main/MODEL_ZOO.md",
    rename=lambda names: one_pathway(rename_by(RULES, names)),
    read=read,
    preprocessing=preprocessing,
    signs=(r"conv1_w$", r"res2_0_branch2a_w$"),
)
