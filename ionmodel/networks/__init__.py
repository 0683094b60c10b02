"""Families of networks that predict xHII of a cell from its neighborhood.

``base`` is the contract and builds a network by name; every other family is one file. The table
below names the class of each, as ``module:class``, so that reading it imports no torch.
"""

NETWORKS: dict[str, str] = {
    "pointwise": "ionmodel.networks.pointwise:Pointwise",
    "residual": "ionmodel.networks.residual:Residual",
    "two_branch": "ionmodel.networks.two_branch:TwoBranch",
}
