"""The registered model as others use it: by HTTP from `mlflow models serve`, without Gantry, on a tracking server."""

import json
import multiprocessing
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from registry_helpers import TRUSTED, drawn, fid, generator, pixels, process

from gantry.generation.registry.find import find_model
from gantry.generation.registry.registry import register
from gantry.runs.generators import ExportedFiles
from gantry.runs.tracking.store import prepare_store

pytestmark = pytest.mark.slow  # real servers and processes

CLIENTS, SECONDS = 8, 30
JSON = "application/json"
SEEDS = "a whole number from 0 to 9223372036854775807"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def files(folder):
    """The generator that is served."""
    return generator(folder / "generator")


@pytest.fixture(scope="module")
def store(folder, files):
    """A store whose model `digits` it is the champion of; its address."""
    client, experiment = prepare_store(folder / "store", "gantry")
    register(client, "digits", files, experiment, None, fid(2.0))
    return client.tracking_uri


@pytest.fixture(scope="module")
def served(folder, store):
    """Where `mlflow models serve` answers for it."""
    command = "mlflow models serve -m models:/digits@champion --env-manager local --host 127.0.0.1 --port {port}"
    with process(command, folder, "/ping", MLFLOW_TRACKING_URI=store) as address:
        yield f"{address}/invocations"


def ask(address, body, content_type=JSON):
    """The status and the text of an answer."""
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": content_type})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_documented_request_is_answered_with_gantrys_own_images(served, files):
    status, text = ask(served, '{"inputs": [{"seed": 0, "n": 4, "format": "png", "truncation": 0.7}]}')
    assert status == 200
    (answer,) = json.loads(text)["predictions"]
    assert {name: answer[name] for name in ("seed", "n", "format")} == {"seed": 0, "n": 4, "format": "png"}
    assert np.array_equal([pixels(image) for image in answer["images"]], drawn(files, 0, 4, 0.7))


def test_the_largest_request_and_the_largest_seed(served, files):
    seed = 2**63 - 1
    status, text = ask(served, {"inputs": [{"seed": seed, "n": 255}, {"seed": seed, "format": "grid"}]})
    assert status == 200
    many, one = json.loads(text)["predictions"]
    assert np.array_equal([pixels(image) for image in many["images"]], drawn(files, seed, 255))
    assert np.array_equal(pixels(one["images"][0]), drawn(files, seed, 1)[0])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"inputs": [{"seed": 0, "n": 0}]}, "inputs[0].n: must be a whole number from 1 to 256, not 0"),
        ({"inputs": [{"seed": 0, "n": 257}]}, "inputs[0].n: must be a whole number from 1 to 256, not 257"),
        ({"inputs": [{"seed": 0, "n": 200}, {"seed": 1, "n": 57}]}, "257 images together; a request is for 1 to 256"),
        ({"inputs": []}, "0 images"),
        ({"inputs": [{"seed": 0}, {"seed": -1}]}, f"inputs[1].seed: must be {SEEDS}, not -1"),
        ({"inputs": [{"seed": 2**63}]}, f"inputs[0].seed: must be {SEEDS}, not 9223372036854775808"),
        ({"inputs": [{"seed": 1.5}]}, f"inputs[0].seed: must be {SEEDS}, not 1.5"),
        ({"inputs": [{"seed": "one"}]}, f"inputs[0].seed: must be {SEEDS}, not 'one'"),
        ({"inputs": [{"n": 1}]}, f"inputs[0].seed: has to be given: {SEEDS}"),
        ({"inputs": [{"seed": 0, "format": "jpg"}]}, "inputs[0].format: must be png or grid, not 'jpg'"),
        ({"inputs": [{"seed": 0, "truncation": 0}]}, "inputs[0].truncation: must be a number above 0, not 0"),
        ('{"inputs": [{"seed": 0, "truncation": NaN}]}', "inputs[0].truncation: must be a number above 0, not nan"),
        (
            {"inputs": [{"seed": 0, "count": 3}]},
            "count: there is no such field (valid: seed, n, format, truncation, cl",
        ),
        ({"inputs": [7]}, "dictionary"),
        ({"inputs": {"seed": 0}}, "Expected list, but got dict"),
        ({"dataframe_records": [{"seed": 0}]}, "'inputs' key"),
        ({"seed": 0}, "'inputs' key"),
        ([1], "Received a list"),
        ("", "valid JSON"),
        ("seed=0", "valid JSON"),
    ],
)
def test_a_bad_request_is_answered_with_the_reason(served, body, said):
    status, text = ask(served, body)
    assert status == 400
    message = json.loads(text)["message"].replace("\\n", " ")  # it quotes another, line breaks and all
    assert said in " ".join(message.split())


@pytest.mark.parametrize(("content_type", "status"), [("image/png", 415), ("text/csv", 400), ("", 415)])
def test_a_request_of_another_kind_is_refused(served, content_type, status):
    found, text = ask(served, "seed\n0\n", content_type)
    assert found == status
    assert "content types" in text or "data types" in text or "DataFrame" in text


def test_many_clients_at_once_lose_no_request(served, files, record_property):
    expected = {seed: drawn(files, seed, 3) for seed in range(5)}
    ends = time.monotonic() + SECONDS
    sent, right, lost = [0] * CLIENTS, [0] * CLIENTS, []

    def client(number):
        while time.monotonic() < ends:
            seed = (number + sent[number]) % len(expected)
            sent[number] += 1
            try:
                status, text = ask(served, {"inputs": [{"seed": seed, "n": 3}]})
                images = json.loads(text)["predictions"][0]["images"]
                right[number] += status == 200 and np.array_equal([pixels(one) for one in images], expected[seed])
            except Exception as error:
                lost.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not lost
    assert min(sent) > 0
    assert sum(right) == sum(sent)
    record_property("requests a second", round(sum(sent) / SECONDS, 1))


HIDDEN = ("gantry", "hydra", "omegaconf", "pytorch_lightning", "safetensors", "sklearn", "torchvision")
LOADED = """
import json, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hidden())
import mlflow
mlflow.set_tracking_uri({store!r})
answer = mlflow.pyfunc.load_model("models:/digits@champion").predict([{{"seed": 9, "n": 2}}])[0]
print(json.dumps(answer.images))
"""


def test_it_loads_where_gantry_is_not_installed(tmp_path, store, files):
    code = LOADED.format(hidden=HIDDEN, store=store)
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    images = json.loads(done.stdout.splitlines()[-1])
    assert np.array_equal([pixels(image) for image in images], drawn(files, 9, 2))


def registering(folder, number, together):
    """Register a generator of FID `number` at the same moment as others."""
    client, experiment = prepare_store(folder / "store", "gantry")
    files = generator(folder / f"generator_{number}", number)
    together.wait(120)
    register(client, "raced", files, experiment, None, fid(float(number)))


def test_processes_that_register_at_once_leave_the_best_as_champion(tmp_path):
    client, _ = prepare_store(tmp_path / "store", "gantry")
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(4)
    racers = [context.Process(target=registering, args=(tmp_path, number, together)) for number in (3, 1, 4, 2)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0] * 4
    assert client.get_model_version_by_alias("raced", "champion").tags["value"] == "1.0"
    assert len(client.search_model_versions("name='raced'")) == 4


def test_a_tracking_server_keeps_models_too(tmp_path):
    command = f"mlflow server --workers 1 --port {{port}} --backend-store-uri sqlite:///{tmp_path}/mlflow.db"
    with process(f"{command} --artifacts-destination {tmp_path}/kept", tmp_path, "/health") as address:
        client, experiment = prepare_store(address, "gantry")
        run = client.create_run(experiment).info.run_id
        worse, better = generator(tmp_path / "worse", 1), generator(tmp_path / "better", 2)
        assert register(client, "digits", worse, experiment, run, fid(3.0)).champion
        assert register(client, "digits", better, experiment, None, fid(2.0)).champion
        found = ExportedFiles(find_model(client, "digits", tmp_path / "cache"), TRUSTED)
        assert found.digest() == better.digest()
