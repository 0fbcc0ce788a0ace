"""A batch size that changes inside a stage: as counted, and as the same steps planned stage by stage."""

import pytest

from jaxpt.checkpoints.checkpoints import finished_steps, read_run
from jaxpt.config.schema import build
from jaxpt.errors import JaxptError
from jaxpt.training.config import RunConfig
from jaxpt.training.metrics import read
from tests.training import run_packed
from tests.training.run_made import CONFIG
from tests.training.test_past import go_on, plan, rates, spans, stage, stop


def test_a_stage_in_tokens_ends_with_its_tokens_and_its_schedule_counts_them():
    got = plan(stage(batch_ramp=("16 from 5120 tokens", "32 from 10240 tokens")))  # of 20,480
    assert [(leg.first, leg.stop, leg.batch_size) for leg in got.legs] == [(0, 10, 8), (10, 15, 16), (15, 20, 32)]
    assert [(s.first, s.stop, s.step.batch_size, s.whole) for s in got.stages] == [
        (0, 10, 8, (0, 20)),
        (10, 15, 16, (0, 20)),
        (15, 20, 32, (0, 20)),
    ]
    assert got.tokens_at(20) == 20_480
    done = [512 * min(t, 10) + 1024 * min(max(t - 10, 0), 5) + 2048 * max(t - 15, 0) for t in range(20)]
    edge = 16_384  # the decay is the last fifth of the tokens
    closed = [min(1.0, (t + 1) / 4) if n < edge else 1 - (n - edge) / 4096 for t, n in enumerate(done)]
    assert rates(got, 0) == pytest.approx(closed, rel=1e-12)


def test_a_stage_in_steps_keeps_its_steps():
    got = plan(stage("20 steps", batch_ramp=("16 from 10 steps",)))
    assert (spans(got), got.tokens_at(20)) == ([(0, 10), (10, 20)], 10 * 512 + 10 * 1024)
    assert rates(got, 0) == rates(plan(stage("20 steps")), 0)


@pytest.mark.parametrize("step", [3, 10, 12, 15, 19])
def test_a_start_on_the_way_goes_on_where_the_ramp_was(step):
    ramp = stage(batch_ramp=("16 from 5120 tokens", "32 from 10240 tokens"))
    whole = plan(ramp)
    got = go_on(stop(whole, step), ramp)
    assert (got.legs, rates(got, step)) == (whole.legs, rates(whole, step))


@pytest.mark.parametrize(
    ("ramp", "message"),
    [
        (("16",), "batch_ramp[0] is '16', it must look like \"64 from 1.5M tokens\""),
        (("16 from 10%",), "batch_ramp[0] is '10%', it must be a duration"),
        (("16 from 9 steps", "32 from 2k tokens"), "'16 from 9 steps' counts steps, '32 from 2k tokens' counts tokens"),
        (("16 from 9 steps", "32 from 9 steps"), "does not come after what is before it"),
        (("12 from 9 steps",), "12 rows are no multiple of the 8 of a microbatch"),
    ],
)
def test_a_ramp_that_cannot_be_is_refused(ramp, message):
    with pytest.raises(JaxptError) as error:
        build(RunConfig, {**CONFIG, "stages": [stage(batch_ramp=ramp)]})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_stage_of_no_tokens_and_a_negative_rate_are_refused():
    for changed, message in (
        (stage("0 tokens"), "duration is '0 tokens': not a single step"),
        (stage(learning_rate=-1e-3), "learning_rate is -0.001, it must be at least 0"),
    ):
        with pytest.raises(JaxptError, match=message):
            build(RunConfig, {**CONFIG, "stages": [changed]})
    with pytest.raises(JaxptError, match=r"goes to -0\.5 times the peak"):
        plan(stage(schedule={"name": "linear", "end": -0.5}))


def test_a_ramp_trains_what_two_stages_with_these_sizes_train(tmp_path):
    run_packed.make(tmp_path)
    mixture = {"a": 0.3, "b": 0.3, "c": 0.4}
    steady = {"mixture": mixture, "schedule": {"name": "constant"}}
    one = [{"duration": "6 steps", "batch_size": 4, "batch_ramp": ("8 from 4 steps",), **steady}]
    two = [{"duration": "4 steps", "batch_size": 4, **steady}, {"duration": "2 steps", "batch_size": 8, **steady}]
    two[1]["microbatches"] = 2
    assert run_packed.start(tmp_path, tmp_path / "ramp", stages=one) == 0
    assert run_packed.start(tmp_path, tmp_path / "stages", stages=two) == 0
    ramp, stages = (read_run(tmp_path / name, 6) for name in ("ramp", "stages"))
    assert ramp["digests"] == stages["digests"]
    assert ramp["ledger"] == stages["ledger"]
    assert 4 not in finished_steps(tmp_path / "ramp")  # a change of size is no end of a stage
    losses = [read(tmp_path / name / "metrics.jsonl")[-1]["train/loss"] for name in ("ramp", "stages")]
    assert losses[0] == losses[1]
