"""`jaxpt generate`: text from a bundle, a run, or a Hugging Face directory."""

import sys
from collections.abc import Sequence

from jaxpt import api
from jaxpt.cli.dispatch import Parser
from jaxpt.errors import JaxptError
from jaxpt.generation import Sampling, continue_texts
from jaxpt.models.compute import Compute

HELP = "continue a prompt (KV cache; greedy, temperature, top-k, top-p)"

EPILOG = """\
example:
  jaxpt generate --model=runs/quickstart/run --prompt="def main(" --temperature=0 --max_new_tokens=64
  jaxpt generate --model=BUNDLE --prompt="Once" --prompt="The" --temperature=0.8 --top_p=0.95 --seed=1
"""


def main(argv: Sequence[str]) -> int:
    """Parses arguments and prints each prompt with its continuation."""
    parser = Parser("jaxpt generate", HELP, EPILOG)
    parser.add_argument(
        "--model", required=True, metavar="PATH", help="bundle, run directory or Hugging Face directory"
    )
    parser.add_argument("--prompt", action="append", required=True, help="text to continue; may be given again")
    parser.add_argument("--max_new_tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=1.0, help="0: always the likeliest token")
    parser.add_argument("--top_k", type=int, default=0, help="keep the k likeliest tokens; 0: all")
    parser.add_argument("--top_p", type=float, default=1.0, help="keep the likeliest tokens of this probability")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no_bos", action="store_true", help="no BOS, also where the tokenizer puts one first")
    parser.add_argument(
        "--control_tokens",
        choices=("tokens", "text"),
        default="tokens",
        help="what a prompt that spells a control token (</s>) means: that token, or its text",
    )
    parser.add_argument("--dtype", default="float32", help="compute dtype: float32 or bfloat16")
    args = parser.parse_args(list(argv))
    if args.max_new_tokens < 1:
        raise JaxptError(f"--max_new_tokens={args.max_new_tokens} must be at least 1")
    try:
        sampling = Sampling(args.temperature, args.top_k, args.top_p)
    except JaxptError as error:
        raise JaxptError(f"--{error}") from error
    model = api.load(args.model)
    if model.tokenizer is None:
        raise JaxptError(f"--model={args.model} has no tokenizer; write the bundle with one")
    texts = continue_texts(
        model,
        args.prompt,
        args.max_new_tokens,
        sampling=sampling,
        seed=args.seed,
        bos=not args.no_bos,
        control_tokens=args.control_tokens == "tokens",
        compute=Compute(dtype=args.dtype),
        notice=lambda line: print(f"jaxpt generate: {line}", file=sys.stderr),
    )
    for text in texts:
        print(text)
        if len(texts) > 1:
            print("---")
    return 0
