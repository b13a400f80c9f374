import numpy as np
import pytest

import curate
from curate.pipeline.frequencies import frequency_loss
from curate.proxies.tokens import Encoded
from curate.reports.report import judge
from tests.scoring import make_project


def encoded(ids: np.ndarray) -> Encoded:
    scored = np.ones(len(ids), bool)
    scored[0] = False
    return Encoded(ids=ids.astype(np.int32), scored=scored, truncated=False)


def test_loss_of_frequencies_is_near_the_true_entropy_though_the_sample_is_small() -> None:
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1, 501)
    shares /= shares.sum()
    documents = [encoded(rng.choice(500, 200, p=shares)) for _ in range(10)]
    assert frequency_loss(documents) == pytest.approx(-(shares * np.log(shares)).sum(), abs=0.05)
    assert frequency_loss([]) is None


def test_a_run_of_an_untrained_proxy_is_told_to_be_one(tmp_path) -> None:
    project = make_project(tmp_path / "p", 20)
    run = curate.score(
        target=str(project / "val.jsonl"),
        pool=[str(project / "pool")],
        method="loss",
        model=str(project / "proxy"),
        device="cpu",
        out=tmp_path / "run",
    )
    (training,) = (f for f in judge(run).findings if f.about == "training of the proxy")
    assert training.level == "warning"
    assert "hardly learned this text: its loss is 5." in training.says
