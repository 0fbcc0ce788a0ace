"""A turn's end is a token of its own, which need not be EOS."""

from jaxpt.generation.turns import turn_ends
from jaxpt.tokenizers import train_sentencepiece
from jaxpt.tokenizers.chat import named_template
from tests.data.test_chat import HEADS, byte_level


def test_the_token_that_a_template_writes_after_the_assistant_ends_a_turn(tmp_path):
    words = byte_level(tmp_path)
    for template, end in ((named_template("chatml"), "<|im_end|>"), (HEADS, "<|eot|>")):
        assert turn_ends(words, template) == words.token_ids(end, "end")
        assert turn_ends(words, template) != [words.eos_id]


def test_the_plain_template_ends_with_eos_and_one_without_marks_with_nothing(tmp_path):
    words = train_sentencepiece(["a b user assistant"] * 20, tmp_path / "tokenizer.model", 300)
    assert turn_ends(words, named_template("plain")) == [words.eos_id]
    bare = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    assert turn_ends(words, bare + "{% if add_generation_prompt %}assistant: {% endif %}") == []
