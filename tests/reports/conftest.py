import pytest


@pytest.fixture(scope="session")
def mlruns(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for all tests, since creating its tables takes seconds."""
    return str(tmp_path_factory.mktemp("here") / "mlruns")
