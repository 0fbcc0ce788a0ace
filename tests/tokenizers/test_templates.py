"""Chat templates are strangers' programs: they run apart, within limits; every error is one line that names them."""

import datetime
import json
import multiprocessing
import os
import time

import pytest

from jaxpt.errors import JaxptError
from jaxpt.tokenizers import rendering
from jaxpt.tokenizers.chat import DATE, named_template, render, render_with_spans

TALK = [{"role": "user", "content": "Is it on?"}, {"role": "assistant", "content": "It is."}]


@pytest.fixture
def short(monkeypatch):
    """Limits that are reached soon, in a process of its own."""
    rendering._end()
    monkeypatch.setattr(rendering, "SECONDS", 1)
    monkeypatch.setattr(rendering, "MEMORY", 200 << 20)
    monkeypatch.setattr(rendering, "CHARACTERS", 1 << 12)
    yield
    rendering._end()


FAILS = {
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}": "takes longer than 1 s",
    "{% for a in range(99999) %}{% for b in range(999) %}x{% endfor %}{% endfor %}": "more than 4,096 characters",
    "{{ 'x\nx' | indent(10 ** 9) }}": "more memory",
    "{{ lipsum(n=10 ** 7) }}": "takes longer than 1 s",
    "{{ 'x' * 3000000000 }}": "more memory",
    "{{ 7 ** (7 ** 9) }}": "takes longer than 1 s",
    "{{ 10.0 ** 400 }}": "OverflowError",
    "{{ 1 / 0 }}": "ZeroDivisionError",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "calls itself without end",
    "{{ '%d' % 'x' }}": "TypeError",
    "{{ 'x'.encode('no such') }}": "LookupError",
    "{{ range(10 ** 9) | list }}": "OverflowError",
    "{{ (" + "(" * 10_000: "calls itself without end",
    "{{ messages[9].content }}": "has no element 9",
    "{{ cycler.__init__.__globals__ }}": "unsafe",
}


@pytest.mark.parametrize("template", FAILS)
def test_a_template_ends_within_its_limits_and_its_error_is_one_line_that_names_it(short, template):
    began = time.monotonic()
    with pytest.raises(JaxptError, match=FAILS[template]) as error:
        render(template, TALK, {}, name="chat template odd.jinja")
    assert str(error.value).startswith("chat template odd.jinja: ")
    assert len(str(error.value)) < 300
    assert time.monotonic() - began < 8
    assert "Is it on?" in render(named_template("chatml"), TALK, {})  # the next one is rendered


def test_one_process_renders_all_and_another_takes_over_where_it_is_gone():
    render("{{ messages | length }}", TALK, {})
    worker = rendering._worker
    assert render("{{ messages | length }}", TALK, {}) == "2"
    assert rendering._worker is worker
    worker._process.kill()
    worker._process.wait()
    assert render("{{ messages | length }}", TALK, {}) == "2"


def _in_fork(queue):
    queue.put(render("{{ messages | length }}", TALK, {}))


def test_a_fork_starts_a_process_of_its_own():
    render("x", TALK, {})
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_fork, args=(queue,))
    child.start()
    assert queue.get(timeout=20) == "2"
    child.join(20)
    assert render("{{ messages | length }}", TALK, {}) == "2"


def test_the_process_holds_no_file_and_no_terminal_of_its_parent():
    render("x", TALK, {})
    pid = rendering._worker._process.pid
    assert os.getsid(pid) == pid  # Ctrl-C in the terminal does not reach it
    assert len(os.listdir(f"/proc/{pid}/fd")) <= 4


def test_a_template_says_the_day_of_packing_and_else_today():
    template = "{{ strftime_now('%Y-%m-%d') }}{% generation %}{{ messages[1].content }}{% endgeneration %}"
    assert render_with_spans(template, TALK, {}).text.startswith(DATE)
    assert render_with_spans(template, TALK, {}, date="2020-02-29").text.startswith("2020-02-29")
    today = datetime.date.today().isoformat()
    assert render(template, TALK, {}).startswith((today, datetime.date.today().isoformat()))


def test_values_go_to_the_template_as_they_are():
    values = {
        "tools": [{"name": "é🙂", "n": 1, "x": 1.5, "none": None, "yes": True}],
        "bos_token": "<s>",
        "half": "\ud83d",
    }
    template = "{{ bos_token }}{{ tools | tojson }}{{ tools[0].n + 1 }}{{ half }}"
    text = '<s>[{"name": "é🙂", "n": 1, "x": 1.5, "none": null, "yes": true}]2\ud83d'
    assert render(template, TALK, values) == text
    assert json.loads(render("{{ messages | tojson(indent=1) }}", TALK, {})) == TALK
