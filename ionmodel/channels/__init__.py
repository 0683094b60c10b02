"""Derived channels: input fields that are computed from a whole periodic box.

``base`` is the contract; every kind is one file and one row in the table below, which names its
class as ``module:class`` so that reading it imports nothing. ``periodic_field`` smooths fields,
``cache`` keeps the results in a store.
"""

CHANNELS: dict[str, str] = {
    "top_hat": "ionmodel.channels.top_hat:TopHat",
    "mean_free_path": "ionmodel.channels.mean_free_path:MeanFreePath",
}
