"""Derived channels: input fields that are computed of a whole periodic box.

``base`` is the contract; every kind is one file. The table below names the class of each, as
``module:class``, so that reading it imports nothing. ``periodic_field`` computes what they have in
common, ``cache`` keeps the results in a store.
"""

CHANNELS: dict[str, str] = {
    "top_hat": "ionmodel.channels.top_hat:TopHat",
    "mean_free_path": "ionmodel.channels.mean_free_path:MeanFreePath",
}
