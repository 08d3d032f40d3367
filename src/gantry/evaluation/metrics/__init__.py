"""The metrics, one in each file; the file's function `metric` returns it."""

# The module of each `gantry.core.config.options.Measure`.
MEASURES = {
    "fid": "fid",
    "kid": "kid",
    "inception_score": "inception_score",
    "precision_recall": "precision_recall",
    "fid_infinity": "fid_infinity",
    "classes": "class_shares",
    "asked_class": "asked_class",
    "code_agreement": "code_agreement",
    "intra_fid": "intra_fid",
    "class_fid": "class_fid",
    "memorisation": "memorization",
    "augmentation": "classification_accuracy",
    "cas": "cas",
    "reconstruction": "reconstruction",
    "code_neighbours": "code_neighbours",
}
