"""The token that ends a turn of a conversation, which need not be EOS: where a generation in a chat is to end."""

from jaxpt.tokenizers.chat import render_with_spans
from jaxpt.tokenizers.interface import Tokenizer

TALK = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})


def turn_ends(tokenizer: Tokenizer, template: str) -> list[int]:
    """Returns the id of the control token that `template` writes after what the assistant says; none where it has none.

    Args:
        tokenizer: whose control tokens count.
        template: source of a chat template.

    Raises:
        JaxptError: the template is broken, or refuses a conversation of two turns.
    """
    made = render_with_spans(template, TALK, tokenizer.special_texts, control=tokenizer.control)
    begin, end = made.spans[-1]
    ids = tokenizer.encode(made.text[made.text.index("b", begin) + 1 : end], control_tokens=True)
    special = {i for i, _, _ in tokenizer.special_tokens()} | ({tokenizer.eos_id} - {None})
    return [i for i in ids if i in special][:1]
