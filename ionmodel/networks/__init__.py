"""Families of networks that predict xHII of a cell from its neighborhood.

``base`` is the contract and builds a network by name; every other family is one file. The table
below names the class of each, as ``module:class``, so that reading it imports no torch.

Scales, the mean free path and the redshift are inputs of any family (`ionmodel.channels`). The
preset ``multiscale`` is ``pointwise`` with ``scales``: a fully connected network on the averages
around each cell.
"""

NETWORKS: dict[str, str] = {
    "pointwise": "ionmodel.networks.pointwise:Pointwise",
    "residual": "ionmodel.networks.residual:Residual",
    "two_branch": "ionmodel.networks.two_branch:TwoBranch",
}

OPTIONS: dict[str, dict[str, str]] = {
    "pointwise": {"head_widths": "widths"},
    "residual": {"width": "width", "dilations": "dilations", "head_widths": "head_widths"},
    "two_branch": {
        "channels": "block_channels",
        "kernel": "kernel",
        "padding": "padding",
        "shared_branches": "shared_branches",
        "conv_bias": "conv_bias",
        "feature_dropout": "feature_dropout",
        "head_dropout_widths": "head_dropout_widths",
        "head_dropout": "head_dropout",
        "head_widths": "head_widths",
        "recompute": "recompute",
    },
}
"""For each family, the argument that each key of a configuration sets."""

NETWORK_KEYS = {key for keys in OPTIONS.values() for key in keys}
"""Keys that only some families have."""

PREDICTS_TILES = frozenset({"pointwise", "residual"})
"""Families that always predict whole tiles; other families do so without padding."""
