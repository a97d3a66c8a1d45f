"""Settings under which the demo's preset trains in seconds, on datasets called `mine` and `held`."""

SMALL = (
    "train.workers=1",
    "train.steps=4",
    "train.global_batch=4",
    "train.checkpoint_every=2",
    "train.validate_every=2",
    "train.log_every=2",
    "data.size=32",
    "data.resize=48",
    "data.train=mine",
    "data.val=held",
    "tracking.gallery=1",
    "model.width=4",
)
