"""Ray actors as workers: the same answers, also when an actor or a whole node is lost. Skipped where Ray is not installed."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evalkit.config import ModelSpec
from evalkit.lm.native import NativeLM
from evalkit.tasks import Generate, Loglikelihood
from evalkit.workers.pool import WorkersLM

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.slow,
    pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="Ray is not installed: pip install 'evalkit-lm[ray]'"),
    pytest.mark.filterwarnings("default"),  # Ray's own
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without room for workers, and two nodes of one CPU each."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    yield found
    found.shutdown()


def requests() -> list[Generate]:
    return [Generate(f"Question {i}: how many are {i} and {i + 1}? Answer:", ("\n\n",), 256) for i in range(24)]


@pytest.mark.timeout(900)
def test_the_loss_of_an_actor_and_of_a_node(cluster: Any, tiny_model: Path) -> None:
    from evalkit.workers.ray_actors import RayActors

    model, said = ModelSpec(str(tiny_model)), list[str]()
    native = NativeLM.load(model)
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    actors = RayActors(cluster.address, model, None)
    assert actors.count == 2
    lm = WorkersLM(actors, model, actors.count, said.append)
    try:
        assert lm.fingerprint == native.fingerprint
        scored = [Loglikelihood(f"Question {i}: is it so? Answer:", (" yes", " no")) for i in range(10)]
        assert dict(lm.loglikelihood(scored)) == dict(native.loglikelihood(scored))
        expected = dict(native.generate(requests()))
        found = {}
        for i, response in lm.generate(requests()):
            found[i] = response
            if len(found) == 1:  # an actor is killed; Ray finds room for another one
                actors.ray.kill(lm.places[0].link.handle)  # type: ignore[union-attr]
        assert found == expected
        found = {}
        for i, response in lm.generate(requests()):
            found[i] = response
            if len(found) == 1:
                cluster.remove_node(nodes[1], allow_graceful=False)
        assert found == expected
        assert sum("is lost" in text for text in said) >= 2
    finally:
        lm.close()
