"""`POST /generate` as LightLLM answers it, for OpenCompass' perplexity tasks."""

import time

from starlette.requests import Request
from starlette.responses import Response

from jaxpt.serving.asked import IGNORED, NEUTRAL, ContinuationOptions, read_asked
from jaxpt.serving.choices import ChoiceText
from jaxpt.serving.exchange import Exchange, json_response, read_json
from jaxpt.serving.fields import RequestFields
from jaxpt.serving.jobs import PromptJob
from jaxpt.serving.logprobs import finite
from jaxpt.serving.served import ServedModel

USUAL = 16  # new tokens where max_new_tokens is not given, as LightLLM's


async def generate(served: ServedModel, request: Request) -> Response:
    """Answers with the continuation, the prompt's ids, and the log-probability of each but the first of them.

    Where max_new_tokens is not given and the prompt takes all the room, there is no continuation.
    """
    fields = RequestFields(await read_json(request, served.limits.body))
    prompt, asked = await served.apart(_read, served, fields)
    fits = len(prompt) < served.thread.max_length
    new = served.room(len(prompt), asked.max_tokens if fits or asked.max_tokens else 0, USUAL)
    requests = asked.requests(served.vocabulary, prompt, new, None)
    job = PromptJob(prompt, requests, 0, time.monotonic() + served.limits.seconds)
    await Exchange(served, request, [job]).whole()
    made = [ChoiceText(served.vocabulary, asked, job, n).take() for n in range(len(requests))]
    pairs = [[i, {str(i): finite(value)}] for i, value in zip(prompt[1:], job.prompt_logprobs)]
    return json_response(
        {
            "generated_text": [choice.text for choice in made] or [""],
            "count_output_tokens": sum(job.visible),
            "finish_reason": made[0].reason if made else "length",
            "prompt_tokens": len(prompt),
            "prompt_token_ids": prompt,
            "prompt_logprobs": pairs,
        }
    )


def _read(served: ServedModel, fields: RequestFields) -> tuple[list[int], ContinuationOptions]:
    text = fields.text("inputs")
    if text is None:
        fields.refuse("inputs", None, "text")
    given = fields.mapping("parameters")
    fields.close((), {})
    drawn = given.pop("do_sample", None)
    if drawn not in (None, True, False):
        fields.refuse("parameters.do_sample", drawn, "true or false")
    if not drawn:  # LightLLM takes the likeliest token then, whatever else is said
        given = {k: v for k, v in given.items() if k not in ("temperature", "top_p", "top_k")} | {"temperature": 0}
    if "stop_sequences" in given:
        given["stop"] = given.pop("stop_sequences")
    parameters = RequestFields(given)
    bos = parameters.flag("add_special_tokens", True)
    new = parameters.integer("max_new_tokens", None, 0, 2**31 - 1)
    asked = read_asked(parameters, served.vocabulary, new)
    details = {"return_details": (False, True), "print_eos_token": (False,), "stream": (False,)}
    parameters.close(IGNORED, {**NEUTRAL, **details})
    return served.vocabulary.encode(text, bos) or [served.vocabulary.first], asked
