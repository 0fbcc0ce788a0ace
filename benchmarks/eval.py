"""Tasks beside lm_eval's Hugging Face backend, float32 on this CPU: `python -m benchmarks.eval HF_DIR --data=DIR`.

The same documents through both, by turns, each at the best of some batch sizes; seconds of the second pass (the first
compiles, and warms), and the largest difference of a log-likelihood. Aims: twice as fast on HellaSwag without examples
and ARC with five, as fast on MMLU without.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import lm_eval
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from jaxpt import api
from jaxpt.evaluation.harness import evaluating
from jaxpt.evaluation.harness.language_model import JaxptModel
from jaxpt.generation import InferenceEngine
from jaxpt.generation.ends import end_ids

TASKS = (("hellaswag", 0), ("arc_easy", 5), ("mmlu", 0))


def main() -> None:
    """Measures and prints a row for each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a Hugging Face directory, e.g. SmolLM2-135M")
    parser.add_argument("--data", type=Path, required=True, help="folder with the files of the sets")
    parser.add_argument("--limit", type=int, default=40, help="documents of each task (of MMLU: a subject)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tasks", default=",".join(name for name, _ in TASKS))
    parser.add_argument("--batch_sizes", default="4,16", help="of the Hugging Face backend")
    parser.add_argument("--batch_tokens", default="1024,2048", help="of jaxpt")
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    model = api.load(args.model)
    assert model.tokenizer is not None
    programs: dict[str, JaxptModel | HFLM] = {}
    for tokens in map(int, args.batch_tokens.split(",")):
        engine = InferenceEngine(model.config, model.params, decode=model.tokenizer.decode, batch_tokens=tokens)
        programs[f"jaxpt {tokens}"] = JaxptModel(engine, model.tokenizer, end_ids(model), name="model")
    theirs = HFLM(pretrained=args.model, dtype="float32", device="cpu")
    for size in map(int, args.batch_sizes.split(",")):
        programs[f"hf {size}"] = theirs
    for name, shots in TASKS:
        if name not in args.tasks.split(","):
            continue
        tasks = evaluating.find_tasks([name], args.data)
        seconds: dict[str, list[float]] = {label: [] for label in programs}
        answers = {}
        for run in range(args.runs + 1):
            for label, program in programs.items():
                if isinstance(program, HFLM):
                    program.batch_size_per_gpu = int(label.split()[1])
                begun = time.perf_counter()
                results = lm_eval.simple_evaluate(
                    program,
                    tasks=tasks,
                    num_fewshot=shots,
                    limit=args.limit,
                    torch_random_seed=None,
                    bootstrap_iters=0,
                    task_manager=TaskManager(include_defaults=False),  # else reading lm_eval's own tasks is timed too
                )
                if run:
                    seconds[label].append(time.perf_counter() - begun)
                answers[label.split()[0]] = results["samples"]
        worst = max(
            abs(a[0][0] - b[0][0])
            for task, samples in answers["hf"].items()
            for ours, their in zip(answers["jaxpt"][task], samples)
            for a, b in zip(ours["resps"], their["resps"])
        )
        medians = {label: statistics.median(s) for label, s in seconds.items()}
        best = {
            kind: min((s, label) for label, s in medians.items() if label.startswith(kind)) for kind in ("jaxpt", "hf")
        }
        (ours, label), (their, other) = best["jaxpt"], best["hf"]
        print(f"{name}, {shots} shots: {label} {ours:.1f} s, {other} {their:.1f} s, ratio {their / ours:.2f}", end="; ")
        print(f"largest difference {worst:.1e}; load {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
