"""The metrics: a file each, whose function `metric` returns it."""

# What `measures` may name, and the module of each; a metric of one's own is named by its function's `_target_`.
MEASURES = {
    "fid": "fid",
    "kid": "kid",
    "inception_score": "inception_score",
    "precision_recall": "precision_recall",
    "fid_infinity": "fid_infinity",
    "classes": "class_shares",
    "memorisation": "memorization",
    "augmentation": "classification_accuracy",
}
WHILE_TRAINING = ("fid", "kid", "inception_score", "classes")  # where a config names none
