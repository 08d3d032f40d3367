"""python evaluate.py run=<folder, MLflow id, latest, best> | images=<folder or .npz> data=<data set>. See --help."""

from gantry.commands.evaluate import main

if __name__ == "__main__":
    main()
