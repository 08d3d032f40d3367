"""The commands train.py, evaluate.py, sample.py and compare.py."""
