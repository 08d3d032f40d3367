"""MLflow is optional: without it training runs, and asking for it says what to install."""

import subprocess
import sys
import textwrap
from pathlib import Path


def test_tracking_works_where_mlflow_cannot_be_imported(tmp_path: Path) -> None:
    script = f"""
        import sys
        sys.modules["mlflow"] = None
        from pathlib import Path
        from gantry.core.errors import UserError
        from gantry.runs.tracking import FolderTracker, MLflowTracker, check_store
        tracker = FolderTracker(Path({str(tmp_path)!r}))
        tracker.log_metrics({{"fid": 1.0}}, 1)
        tracker.close("FINISHED")
        for refused in (lambda: check_store("mlruns"), lambda: MLflowTracker("mlruns", "gantry", Path("."))):
            try:
                refused()
            except UserError as error:
                assert "gantry-gan[tracking]" in str(error) and "tracking=none" in str(error)
            else:
                raise AssertionError("not refused")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, cwd=tmp_path)
    assert (tmp_path / "status.json").exists()
    assert not (tmp_path / "mlruns").exists()


def test_importing_tracking_and_checking_a_store_import_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys; from gantry.runs.tracking import check_store; check_store(sys.argv[1]);"
        "assert not {'mlflow', 'numpy', 'torch', 'PIL', 'sqlalchemy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
