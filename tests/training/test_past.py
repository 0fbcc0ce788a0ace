"""What is past comes from the checkpoint: a config that changes between starts plans only the steps to come."""

import json
import math

import pytest

from jaxpt.checkpoints.checkpoints import finished_steps, read_run
from jaxpt.config.schema import build
from jaxpt.errors import JaxptError
from jaxpt.training import history
from jaxpt.training.changes import changes
from jaxpt.training.config import RunConfig
from jaxpt.training.metrics import read
from jaxpt.training.run_plan import continued, make_plan
from tests.training import run_made
from tests.training.feed import MadeSource
from tests.training.run_made import CONFIG

MIXTURE = {"a": 1.0, "b": 1.0}
WSD = {"name": "wsd", "warmup": "4 steps", "decay": "20%", "end": 0.0}


def stage(duration="20480 tokens", batch=8, schedule=WSD, **more):
    return {
        "duration": duration,
        "batch_size": batch,
        "sequence_length": 64,
        "mixture": MIXTURE,
        "schedule": schedule,
        **more,
    }


def plan(*stages, past=(), **more):
    sources = {n: MadeSource(sequence_length=64) for n in "ab"}
    return make_plan(build(RunConfig, {**CONFIG, "stages": list(stages), **more}), sources, past=past)


def stop(plan, step):
    """The `run` item of a checkpoint, as it is read back."""
    return json.loads(json.dumps({"step": step, **plan.to_save(step)}))


def go_on(saved, *stages):
    past = history.read_legs(saved, build(RunConfig, {**CONFIG, "stages": list(stages)}).stages)
    return continued(plan(*stages, past=past), saved)


def rates(plan, first):
    return [plan.stages[plan.stage_of(s)].rate(s) / 1e-2 for s in range(first, plan.steps)]


def spans(plan):
    return [(s.first, s.stop) for s in plan.stages]


def test_a_larger_batch_midway_trains_the_tokens_that_are_left_and_decays_to_the_end():
    saved = stop(plan(stage()), 30)
    got = go_on(saved, stage(batch=16))
    assert (got.steps, got.tokens_at(30), got.tokens_at(35)) == (35, 15_360, 20_480)
    assert rates(got, 30) == pytest.approx([1, 1, 3 / 4, 2 / 4, 1 / 4])  # the decay is the last 4,096 tokens, as before
    assert changes(got, saved) == []  # it goes on where it was


def test_without_its_past_a_run_would_end_before_where_it_stands():  # the proof above can fail
    assert plan(stage(batch=16)).steps == 20


def test_a_smaller_batch_midway_is_counted_truthfully():
    saved = stop(plan(stage()), 30)
    got = go_on(saved, stage(batch=4))
    assert (got.steps, got.tokens_at(50)) == (50, 20_480)
    assert rates(got, 30)[:4] == pytest.approx([1] * 4)
    assert rates(got, 34) == pytest.approx([1 - i / 16 for i in range(16)])
    assert changes(got, saved) == []


def test_two_changes_one_after_the_other_add_up():
    first = stop(plan(stage()), 10)  # 5,120 tokens
    second = go_on(first, stage(batch=16))  # 15 steps to come
    third = go_on(stop(second, 15), stage(batch=4))  # 10,240 tokens done
    assert (second.steps, third.steps, third.tokens_at(55)) == (25, 55, 20_480)
    assert [(leg.first, leg.stop, leg.batch_size) for leg in third.legs] == [(0, 10, 8), (10, 15, 16), (15, 55, 4)]
    assert spans(go_on(stop(third, 55), stage(batch=4))) == [(0, 55)]
    assert [third.tokens_at(s) for s in (9, 10, 11, 15, 16)] == [4608, 5120, 6144, 10240, 10496]


def test_a_cosine_goes_on_where_it_was_by_tokens():
    cosine = {"name": "cosine", "warmup": "4 steps", "end": 0.1}
    before = plan(stage(schedule=cosine))
    got = go_on(stop(before, 30), stage(batch=16, schedule=cosine))
    assert rates(got, 30) == pytest.approx(rates(before, 30)[::2])
    small = go_on(stop(before, 30), stage(batch=4, schedule=cosine))
    assert rates(small, 30)[::2] == pytest.approx(rates(before, 30))


@pytest.mark.parametrize("batch", [2, 4, 16, 64])
@pytest.mark.parametrize("step", [1, 3, 4, 5, 20, 31, 32, 33, 39])
def test_no_change_of_size_warms_up_twice_or_skips_the_decay(batch, step):
    before = plan(stage())
    got = go_on(stop(before, step), stage(batch=batch))
    now, was = rates(got, step), rates(before, step)
    assert now[0] == pytest.approx(was[0])  # a warmup in steps counts steps, a decay of 20% of tokens counts tokens
    rest = now[max(0, 4 - step) :]
    assert rest == sorted(rest, reverse=True)
    assert (now[max(0, 4 - step)] == 1) == (step <= 32)
    assert 0 < now[-1] == pytest.approx((20_480 - got.tokens_at(got.steps - 1)) / 4096, rel=0.6)
    assert 0 <= got.tokens_at(got.steps) - 20_480 < batch * 64


def test_a_stage_in_steps_counts_steps():
    saved = stop(plan(stage("40 steps")), 30)
    got = go_on(saved, stage("40 steps", batch=16))
    assert (got.steps, got.tokens_at(40)) == (40, 15_360 + 10 * 1024)
    assert rates(got, 30) == pytest.approx(rates(plan(stage("40 steps")), 30))
    assert changes(got, saved) == []


def test_a_batch_so_large_that_the_warmup_alone_would_be_too_long_is_fine_once_it_is_past():
    long = {**WSD, "warmup": "8 steps"}
    saved = stop(plan(stage(schedule=long)), 30)
    with pytest.raises(JaxptError, match="the stage has 5"):
        plan(stage(batch=64, schedule=long))
    assert go_on(saved, stage(batch=64, schedule=long)).steps == 32


def test_a_stage_cut_below_what_is_done_ends_there_and_the_next_is_whole():
    anneal = {"learning_rate": 1e-3, "load": "params", "name": "anneal"}
    two = stage("10 steps", schedule={"name": "linear", "warmup": "5 steps", "end": 0.0}, **anneal)
    saved = stop(plan(stage("40 steps"), two), 30)
    got = go_on(saved, stage("20 steps"), two)
    assert spans(got) == [(0, 30), (30, 40)]
    assert rates(got, 30)[:6] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1])
    printed = changes(got, saved)
    assert printed[0] == (
        "config.stages[0].duration='20 steps' is less than what was trained of stage stage0 (30 steps and 15,360 "
        "tokens): it ends here, and stage anneal begins"
    )
    assert printed[1] == "the learning rate jumps: at step 30 it is 0.0002, the checkpoint's plan had 0.01"
    later = stop(got, 33)
    assert changes(go_on(later, stage("20 steps"), two), later) == []  # said once


def test_a_run_of_which_nothing_is_left_says_what_was_trained():
    saved = stop(plan(stage()), 30)
    got = go_on(saved, stage("10240 tokens"))
    assert got.steps == 30
    assert "(30 steps and 15,360 tokens): it ends here, and nothing is left" in changes(got, saved)[0]


def test_the_last_stage_may_go_on_after_the_end_at_the_rate_that_was_reached():
    to_a_tenth = {**WSD, "end": 0.1}
    saved = stop(plan(stage("40 steps", schedule=to_a_tenth)), 40)
    got = go_on(saved, stage("60 steps", schedule=to_a_tenth))
    assert (spans(got), got.tokens_at(60)) == ([(0, 60)], 60 * 512)
    assert rates(got, 40) == pytest.approx([0.1] * 20)
    (line,) = changes(got, saved)
    assert line == (
        "config.stages[0].duration was '40 steps', is '60 steps': what is done stays, and the rate does not jump to "
        "where a schedule of that length would be; from step 40 on stage stage0 goes from 0.001 to 0.001 in a new "
        "segment, up to step 60"
    )
    more = go_on(saved, stage("40 steps"), stage("5 steps", name="more"))
    assert spans(more) == [(0, 40), (40, 45)]


def test_a_stage_that_is_done_keeps_its_steps_whatever_its_duration_says_now():
    two = stage("10 steps", name="anneal")
    saved = stop(plan(stage("40 steps"), two), 43)
    for duration in ("20 steps", "80 steps", "10240 tokens"):
        got = go_on(saved, stage(duration), two)
        assert spans(got) == [(0, 40), (40, 50)]
        assert changes(got, saved) == [
            f"config.stages[0].duration={duration!r} has no effect: stage stage0 is done, from step 0 to 40"
        ]
    assert spans(go_on(saved, stage("40 steps", batch=16), two)) == [(0, 40), (40, 50)]
    assert go_on(saved, stage("40 steps", batch=16), two).tokens_at(50) == 50 * 512


def test_at_a_boundary_the_next_stage_begins_and_the_last_may_still_be_lengthened():
    two = stage("10 steps", name="anneal")
    saved = stop(plan(stage("40 steps"), two), 40)
    assert go_on(saved, stage("40 steps"), two).legs == plan(stage("40 steps"), two).legs
    with pytest.raises(JaxptError, match=r"reached a learning rate of 0 at step 40 .*; put a stage with"):
        go_on(saved, stage("45 steps"), two)
    steady = {"name": "constant"}
    saved = stop(plan(stage("40 steps", schedule=steady), two), 40)
    assert spans(go_on(saved, stage("45 steps", schedule=steady), two)) == [(0, 45), (45, 55)]


COSINE = {"name": "cosine", "warmup": "4 steps", "end": 0.1}


@pytest.mark.parametrize("longer", ["60 steps", "30720 tokens", "36 steps"])
def test_a_cosine_of_another_length_goes_on_from_the_rate_that_it_reached(longer):
    before = plan(stage("40 steps", schedule=COSINE))
    saved = stop(before, 30)
    got = go_on(saved, stage(longer, schedule=COSINE))
    value, steps = rates(before, 30)[0], got.steps - 30
    closed = [0.1 + (value - 0.1) * 0.5 * (1 + math.cos(math.pi * t / steps)) for t in range(steps)]
    assert rates(got, 30) == pytest.approx(closed, rel=1e-12)
    assert "in a new segment" in changes(got, saved)[0]
    whole = plan(stage(longer, schedule=COSINE))
    assert abs(rates(whole, 30)[0] - value) > 0.05  # where it would have jumped to
    later = stop(got, 33)  # a second start of the same config goes on in that segment, without a word
    again = go_on(later, stage(longer, schedule=COSINE))
    assert (rates(again, 33), changes(again, later)) == (rates(got, 33), [])
    third = go_on(later, stage("80 steps", schedule=COSINE))  # and a third length begins another one there
    assert rates(third, 33)[0] == pytest.approx(rates(got, 33)[0])
    assert third.stages[0].since[0] == 33


@pytest.mark.parametrize(
    "schedule",
    [
        {"name": "constant", "warmup": "4 steps"},
        {**WSD, "decay": "8 steps"},
        {"name": "cosine_restarts", "period": "11 steps"},
        {"name": "inverse_sqrt", "warmup": "4 steps"},
        {"name": "power", "warmup": "4 steps", "row": 64},
        {"name": "segments", "segments": [{"shape": "linear", "duration": "until 500 steps", "end": 1.0}]},
    ],
)
def test_a_schedule_that_does_not_know_its_length_is_as_if_planned_longer_at_once(schedule):
    saved = stop(plan(stage("40 steps", schedule=schedule)), 30)
    got, whole = go_on(saved, stage("60 steps", schedule=schedule)), plan(stage("60 steps", schedule=schedule))
    assert rates(got, 30) == rates(whole, 30)
    assert changes(got, saved) == []


def test_another_stage_behind_a_finished_one_moves_nothing():
    saved = stop(plan(stage("40 steps", schedule=COSINE)), 40)
    got = go_on(saved, stage("40 steps", schedule=COSINE), stage("5 steps", name="more", learning_rate=1e-3))
    assert got.stages[0].schedule.segments == plan(stage("40 steps", schedule=COSINE)).stages[0].schedule.segments
    assert changes(got, saved)[-1].startswith("the learning rate jumps: at step 40")  # the new stage has its own


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["x", "two"], r"config\.stages\[0\] is named 'x', the run has trained stage 'one' there, from step 0 on"),
        (["two", "one"], r"config\.stages\[0\] is named 'two', the run has trained stage 'one' there"),
        (["one"], r"config\.stages\[1\] is missing, the run has trained stage 'two' there, from step 40 on; keep"),
        (["one", "new", "two"], r"config\.stages\[1\] is named 'new', the run has trained stage 'two' there"),
    ],
)
def test_stages_of_the_past_stay_where_they_are(names, message):
    saved = stop(plan(stage("40 steps", name="one"), stage("10 steps", name="two")), 43)
    with pytest.raises(JaxptError, match=message) as error:
        go_on(saved, *(stage("40 steps", name=n) for n in names))
    assert "\n" not in str(error.value)


def test_stages_to_come_may_be_renamed_moved_and_removed():
    saved = stop(plan(stage("40 steps", name="one"), stage("10 steps", name="two")), 30)
    got = go_on(saved, stage("40 steps", name="one"), stage("5 steps", name="x"), stage("10 steps", name="two"))
    assert spans(got) == [(0, 40), (40, 45), (45, 55)]
    assert spans(go_on(saved, stage("40 steps", name="one"))) == [(0, 40)]


def test_any_jump_of_the_learning_rate_is_pointed_out():
    saved = stop(plan(stage("40 steps")), 30)
    assert changes(go_on(saved, stage("40 steps")), saved) == []
    for changed in (
        stage("40 steps", learning_rate=3e-3),
        stage("40 steps", schedule={**WSD, "decay": "50%"}),
        stage("36 steps", schedule={**WSD, "decay": "30%"}),
    ):
        line = changes(go_on(saved, changed), saved)[0]
        assert line.startswith("the learning rate jumps: at step 30 it is 0.00"), line
        assert line.endswith("the checkpoint's plan had 0.01")


def test_the_history_of_an_older_checkpoint_is_read_from_its_schedule_log():
    entry = {"sequence_length": 64, "weights": [2**31, 2**31]}
    sizes = ((0, 8), (20, 8), (30, 4), (43, 4))
    log = {
        "names": ["a", "b"],
        "anchors": [{"step": s, "batch_size": b, **entry, "row": 0, "consumed": [0, 0]} for s, b in sizes],
        "entries": [{"step": s, "batch_size": 4, **entry} for s in (0, 40, 60)],
    }
    saved = {"step": 43, "schedule_log": log, "tokens": 0}
    one, two = stage("9 steps", name="one"), stage("10 steps", name="two", batch=4)
    got = go_on(saved, one, two)
    assert [(leg.stage, leg.first, leg.stop, leg.batch_size) for leg in got.past] == [
        ("one", 0, 30, 8),
        ("one", 30, 40, 4),
        ("two", 40, 43, 4),
    ]
    assert (spans(got), got.tokens_at(43)) == ([(0, 40), (40, 50)], 64 * (30 * 8 + 13 * 4))
    with pytest.raises(JaxptError, match=r"config\.stages\[1\] is missing"):
        go_on(saved, one)


SMALL = {"batch_size": 8, "sequence_length": 16, "mixture": MIXTURE}
DECAY = {"name": "wsd", "warmup": "2 steps", "decay": "50%", "end": 0.0}


def run(workdir, *stages, **more):
    printed = []
    assert run_made.start(workdir, stages=[{**SMALL, **s} for s in stages], log=printed.append, **more) == 0
    return printed


def records(workdir):
    return [r for r in read(workdir / "metrics.jsonl") if "train/loss" in r]


@pytest.mark.slow
def test_a_run_whose_batch_grows_ends_with_its_tokens_and_its_decay(tmp_path):
    cut, whole = {"duration": "6 steps", "schedule": {"name": "constant", "warmup": "2 steps"}}, "2048 tokens"
    every = {"checkpoint": {"every": "256 tokens", "keep": 100}, "evaluate": "512 tokens"}
    run(tmp_path / "run", cut, **every)
    printed = run(
        tmp_path / "run", {"duration": whole, "batch_size": 16, "microbatches": 2, "schedule": DECAY}, **every
    )
    assert "resumed at step 6 of 11" in printed  # 768 of 2,048 tokens are done
    got = records(tmp_path / "run")
    assert [r["tokens"] for r in got] == [128 * s for s in range(1, 7)] + [768 + 256 * s for s in range(1, 6)]
    assert [r["optim/learning_rate"] * 100 for r in got[6:]] == pytest.approx([1, 1, 3 / 4, 2 / 4, 1 / 4])
    evaluated = [r["step"] for r in read(tmp_path / "run" / "metrics.jsonl") if "eval/norm/final" in r]
    assert evaluated == [0, 4, 6, 7, 9, 11]  # every 512 tokens, and after the end that the first start had
    assert finished_steps(tmp_path / "run") == [2, 4, 6, 7, 8, 9, 10, 11]
    legs = read_run(tmp_path / "run", 11)["history"]
    assert [(leg["first"], leg["stop"], leg["batch_size"]) for leg in legs] == [(0, 6, 8), (6, 11, 16)]
    assert read_run(tmp_path / "run", 11)["tokens"] == 2048


def test_what_is_kept_every_so_many_tokens_counts_those_that_were_trained(tmp_path):
    every = {"checkpoint": {"every": "1 steps", "keep": 1, "keep_every": "512 tokens"}}
    run(tmp_path / "run", {"duration": "6 steps"}, **every)
    run(tmp_path / "run", {"duration": "2048 tokens", "batch_size": 16}, **every)
    assert finished_steps(tmp_path / "run") == [4, 7, 9, 11]  # 512, 1,024, 1,536 and 2,048 tokens


def test_a_cut_stage_is_followed_by_a_whole_one_with_fresh_moments(tmp_path):
    two = {"duration": "4 steps", "load": "params", "name": "two", "learning_rate": 1e-3}
    two["schedule"] = {"name": "linear", "warmup": "2 steps", "end": 0.0}
    run(tmp_path / "run", {"duration": "6 steps"})
    printed = run(tmp_path / "run", {"duration": "3 steps"}, two)
    assert "resumed at step 6 of 10" in printed
    assert any("it ends here, and stage two begins" in line for line in printed)
    assert [r["optim/learning_rate"] for r in records(tmp_path / "run")[6:]] == pytest.approx([5e-4, 1e-3, 1e-3, 5e-4])
    run(tmp_path / "straight", {"duration": "6 steps"}, two)  # what it must be: the same steps, planned so at once
    plain = lambda r: {k: v for k, v in r.items() if "perf/" not in k}  # noqa: E731
    cut, straight = (records(tmp_path / name) for name in ("run", "straight"))
    assert [plain(r) for r in cut[6:]] == [plain(r) for r in straight[6:]]
    assert read_run(tmp_path / "run", 10)["digests"] == read_run(tmp_path / "straight", 10)["digests"]


def test_nothing_left_is_said_and_nothing_is_trained(tmp_path):
    run(tmp_path / "run", {"duration": "6 steps"})
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    printed = run(tmp_path / "run", {"duration": "384 tokens"})
    assert "resumed at step 6 of 6" in printed
    assert any("384 tokens' is less than what was trained" in t and "nothing is left" in t for t in printed)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_a_start_that_is_refused_leaves_the_metrics(tmp_path):
    run(tmp_path / "run", {"duration": "6 steps", "name": "one"})
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    with pytest.raises(JaxptError, match="the run has trained stage 'one' there"):
        run(tmp_path / "run", {"duration": "6 steps", "name": "other"})
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_a_run_begun_when_durations_were_counted_a_step_longer_says_where_it_ends_now():
    thousand = stage("2.007M tokens", batch=1000, schedule={"name": "constant"}) | {"sequence_length": 1}
    sources = {n: MadeSource(sequence_length=1) for n in "ab"}
    config = build(RunConfig, {**CONFIG, "stages": [thousand]})
    whole = make_plan(config, sources)
    saved = stop(whole, 1000)
    assert changes(continued(whole, saved), saved) == []  # a checkpoint of today
    del saved["exact_durations"]  # one of before
    (line,) = changes(continued(whole, saved), saved)
    assert "is 2,007 steps, counted exactly; the version that wrote the checkpoint counted 2,008" in line
    assert line.endswith("stage stage0 now ends at step 2,007")
    done = {**saved, "step": 2008, "history": [saved["history"][0] | {"stop": 2008}]}
    assert continued(whole, done).steps == 2008  # what is done stays done
    assert len(changes(continued(whole, done), done)) == 1
    saved["durations"] = {"stage0": "3M tokens"}
    assert changes(continued(whole, saved), saved) == []  # the user's own change
