"""The four-stage annealing plan of configs/anneal_qwen2_5.py at the size of a laptop: minutes on two CPU cores.

jaxpt train --config=configs/anneal_small.py:TEXT --workdir=runs/anneal --config.tokenizer=TOKENIZER

TEXT is a folder of JSONL files named as SOURCES says; they are tokenized and packed on first use (any tokenizer of at
most 32,768 pieces). The kinds of data, their shares, the learning rates' ratios and the stages' order are those of the
large plan; `jaxpt plan` with the same --config counts the data first. These files show the plan at work: two of them
are parts of benchmarks, so do not measure those with the result.
"""

import importlib.util
from pathlib import Path

from ml_collections import ConfigDict

SOURCES = {
    "textbooks": "chinese/d2l_zh_md.jsonl.gz",
    "exam_questions": "math/gsm8k_train.jsonl.gz",
    "multiple_choice": "math/aqua_rat_dev_test.jsonl.gz",
    "math_synthetic": "math/svamp_mawps_mathqa.jsonl.gz",
    "math_web": "math/hendrycks_math_test.jsonl.gz",
    "code": "code/repos.jsonl.gz",
    "general": "noisy_web/redpajama_c4-rp_1.jsonl.gz",
    "function_calling": "sft/glaive_toolcall_en_demo.jsonl.gz",
}
TIMES = 10  # a model this small takes far higher learning rates than the recipe's
STEPS = (90, 60, 60, 60)


def get_config(folder: str = "text") -> ConfigDict:
    """Returns the config; `folder` holds the JSONL files."""
    large = _large()
    c = ConfigDict()
    c.tokenizer = "tokenizer"
    c.model = {"preset": "tiny-1m", "vocab_size": 32_768, "embed": 64, "tie_embeddings": True}
    c.sources = {name: {"path": f"{folder}/{file}"} for name, file in SOURCES.items()}
    keys = ("name", "mixture", "mixture_unit", "schedule")
    c.stages = [
        {
            **{k: stage[k] for k in keys},
            "duration": f"{steps} steps",
            "batch_size": stage["batch_size"] // 64,
            "sequence_length": 128,
            "learning_rate": TIMES * stage["learning_rate"],
        }
        for stage, steps in zip(large.stages, STEPS)
    ]
    c.checkpoint = {"every": "100 steps", "keep": 1}
    c.metrics = {"every": 5}
    return c


def _large() -> ConfigDict:
    """The large plan, from the file beside this one."""
    spec = importlib.util.spec_from_file_location("anneal_qwen2_5", Path(__file__).with_name("anneal_qwen2_5.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()
