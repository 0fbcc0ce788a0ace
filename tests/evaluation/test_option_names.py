"""Messages about evaluations name the flag or key that the user has, of whatever command or config."""

import pytest

pytest.importorskip("lm_eval", reason="needs lm_eval: install jaxpt[eval]")

from jaxpt.errors import JaxptError
from jaxpt.evaluation.harness import evaluating
from jaxpt.evaluation.option_names import FLAGS, FOLLOWER_FLAGS, SFT_PROBE_FLAGS, key_names
from tests.evaluation import sums

KEYS = key_names("config.evaluations.mine")


class Absent:
    """The tasks of lm_eval on a machine where none of their data is."""

    all_tasks = ("hellaswag", "openbookqa")

    def load(self, names):
        raise ConnectionError("offline")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (FLAGS, ["give --data=FOLDER", "--data=GONE is not a folder", "give --hub", "(--data names another)"]),
        (FOLLOWER_FLAGS, ["give --data=FOLDER", "--data=GONE is not a folder", "give --hub", "(--data names another)"]),
        (
            SFT_PROBE_FLAGS,
            ["give --eval_data=FOLDER", "--eval_data=GONE is", "give --hub", "(--eval_data names another)"],
        ),
        (
            KEYS,
            [
                "give config.evaluations.mine.data=FOLDER",
                "config.evaluations.mine.data=GONE is",
                "fetch it with jaxpt eval --hub --tasks=openbookqa first",
                "(config.evaluations.mine.data names another)",
            ],
        ),
    ],
    ids=["eval", "follow", "sft-probe", "config"],
)
def test_what_is_missing_is_named_as_the_user_gives_it(said, words, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluating, "TaskManager", Absent)
    sums.write_task(tmp_path, []).with_name("sums.jsonl").unlink()
    asked = [("hellaswag", None), ("piqa", tmp_path / "gone"), ("openbookqa", None), (f"{tmp_path}/sums.yaml", None)]
    for (name, data), word in zip(asked, words):
        with pytest.raises(JaxptError) as raised:
            evaluating.find_tasks([name], data, said)
        assert word.replace("GONE", str(data)) in str(raised.value)
        flags = {f for f in ("--data", "--eval_data", "--hub=") if f in str(raised.value)}
        assert flags <= {said["data"]}


def test_what_the_user_cannot_set_is_not_offered(tmp_path):
    (task,) = evaluating.find_tasks([str(sums.write_program_task(tmp_path))], None)
    for said in (FOLLOWER_FLAGS, SFT_PROBE_FLAGS, KEYS):
        with pytest.raises(JaxptError, match="runs what the model writes, which is not done here; score it with jaxpt"):
            evaluating.check_tasks([task], None, said=said)
    with pytest.raises(JaxptError, match="--run_model_code allows it"):
        evaluating.check_tasks([task], None)
    evaluating.check_tasks([task], None, run_model_code=True)


def test_numbers_are_named_alike():
    class Options:
        limit, num_fewshot = 0, -1

    for said, word in ((FLAGS, "--limit=0 must be at least 1"), (KEYS, "config.evaluations.mine.limit=0 must be")):
        with pytest.raises(JaxptError, match=word):
            said.check_counts(Options())
    Options.limit = None
    with pytest.raises(JaxptError, match="--num_fewshot=-1 must be at least 0"):
        FLAGS.check_counts(Options())
    Options.num_fewshot = 0
    FLAGS.check_counts(Options())
