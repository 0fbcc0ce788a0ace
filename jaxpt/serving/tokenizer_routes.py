"""`/tokenizer_info`, `/tokenize` and `/detokenize`, which lm_eval's remote tokenizer asks."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from jaxpt.serving.conversation import conversation_ids, read_messages, read_template_values, read_tools
from jaxpt.serving.exchange import json_response, read_json
from jaxpt.serving.fields import RequestFields
from jaxpt.serving.served import ServedModel


async def tokenizer_info(served: ServedModel, request: Request) -> Response:
    """Answers with the special tokens' texts and the chat template."""
    tokenizer = served.vocabulary.tokenizer
    texts: dict[str, object] = {name: text or None for name, text in tokenizer.special_texts.items()}
    more = {"chat_template": tokenizer.chat_template, "add_bos_token": tokenizer.adds_bos}
    size = {"vocab_size": tokenizer.vocab_size, "model_max_length": served.thread.max_length}
    return json_response({"tokenizer_class": type(tokenizer).__name__, **texts, **more, **size})


async def tokenize(served: ServedModel, request: Request) -> Response:
    """Answers with the ids of a `prompt`, or of `messages` as the chat template writes them."""
    fields = RequestFields(await read_json(request, served.limits.body))
    ids, strings = await served.apart(_ids, served, fields)
    texts = [served.vocabulary.tokenizer.piece(i) for i in ids] if strings else None
    return json_response(
        {"count": len(ids), "max_model_len": served.thread.max_length, "tokens": ids, "token_strs": texts}
    )


def _ids(served: ServedModel, fields: RequestFields) -> tuple[list[int], bool]:
    served.name(fields.text("model"))
    strings = fields.flag("return_token_strs", False)
    prompt = fields.text("prompt")
    if prompt is not None:
        bos = fields.flag("add_special_tokens", True)
        fields.close((), {})
        return served.vocabulary.encode(prompt, bos), strings
    messages, tools, values = read_messages(fields), read_tools(fields), read_template_values(fields)
    fields.close(("add_special_tokens",), {})
    return conversation_ids(served.vocabulary, messages, tools, values), strings


async def detokenize(served: ServedModel, request: Request) -> Response:
    """Answers with the text of `tokens`."""
    fields = RequestFields(await read_json(request, served.limits.body))
    served.name(fields.text("model"))
    given: Any = fields.take("tokens")
    fields.close((), {})
    if not isinstance(given, list) or not all(type(i) is int for i in given):
        fields.refuse("tokens", given, "a list of token ids")
    ids = served.vocabulary.checked(given, "tokens")
    return json_response({"prompt": await served.apart(served.vocabulary.decode, ids)})
