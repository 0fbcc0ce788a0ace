"""Greedy generation beside transformers on this CPU: `python -m benchmarks.generate HF_DIR [--runs=5]`.

Tokens a second of 64 new tokens after prompts of 16, one prompt and eight, float32 and bfloat16; the two programs take
turns, medians of each. Both have loaded and compiled before the first turn. The load of the machine is printed with the
figures: torch's threads wait for each other in a loop, and lose more than XLA's to other programs.
"""

import argparse
import os
import statistics
import time

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from jaxpt import api
from jaxpt.generation import InferenceEngine, Request
from jaxpt.models.compute import Compute

LENGTH, NEW = 16, 64


def main() -> None:
    """Measures and prints a row for each dtype and number of prompts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a Hugging Face directory, e.g. SmolLM2-135M")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--batches", default="1,8")
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    model = api.load(args.model)
    rng = np.random.default_rng(0)
    print(f"{'dtype':9} {'batch':>5} {'jaxpt':>8} {'torch':>8} {'ratio':>6}   tokens/s, medians of {args.runs}; load")
    for dtype in args.dtypes.split(","):
        engine = InferenceEngine(model.config, model.params, Compute(dtype=dtype))
        theirs = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, dtype))
        for batch in map(int, args.batches.split(",")):
            prompts = rng.integers(100, model.config.vocab_size, (batch, LENGTH)).tolist()
            requests = [Request(prompt, NEW) for prompt in prompts]
            ids = torch.tensor(prompts)
            options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}

            def ours(requests: list[Request] = requests, engine: InferenceEngine = engine) -> None:
                engine.generate(requests)

            def others(ids: torch.Tensor = ids, theirs=theirs, options=options) -> None:  # type: ignore[no-untyped-def]
                with torch.inference_mode():
                    theirs.generate(ids, attention_mask=torch.ones_like(ids), **options)

            seconds: dict[str, list[float]] = {"jaxpt": [], "torch": []}
            for run in range(args.runs + 1):
                for name, program in (("jaxpt", ours), ("torch", others)):
                    begun = time.perf_counter()
                    program()
                    if run:
                        seconds[name].append(time.perf_counter() - begun)
            speed = {name: batch * NEW / statistics.median(s) for name, s in seconds.items()}
            ratio = speed["jaxpt"] / speed["torch"]
            figures = f"{speed['jaxpt']:8.1f} {speed['torch']:8.1f} {ratio:6.2f}"
            print(f"{dtype:9} {batch:5} {figures}   {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
