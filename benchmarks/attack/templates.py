"""Chat templates that a stranger wrote: each ends in a text or in one line that names it, soon and in little memory."""

import json
from pathlib import Path

from benchmarks.attack.children import Server
from benchmarks.attack.hostile import MEMORY, verdict_of
from benchmarks.attack.judge import Trial, failed
from benchmarks.attack.room import Room, drop
from benchmarks.attack.victims import LENGTH

TEMPLATES = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "{{ 'x' | indent(10 ** 9) }}{{ 'x\nx' | indent(10 ** 9) }}",
    "{{ lipsum(n=10 ** 7) }}",
    "{{ 'x' * 3000000000 }}",
    "{{ 'x'.center(10 ** 10) }}",
    "{{ '{:>9999999999}'.format(1) }}",
    "{{ '%9999999999d' % 1 }}",
    "{{ 7 ** (7 ** 9) }}",
    "{{ 10.0 ** 400 }}",
    "{{ 1 / 0 }}",
    "{{ 'a' + 1 }}",
    "{{ messages[99].content }}",
    "{{ 'a'.zfill('b') }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ " + "(" * 100_000,
    "{% if a %}" * 5000,
    "{% endfor %}",
    "{{ raise_exception('\x1b[2J' ~ 'x' * 10 ** 6) }}",
    "{{ messages.__class__.__mro__ }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "{% set x = [] %}{% for i in range(99999) %}{{ x.append('y') }}{% endfor %}",
    "{{ range(10 ** 12) | list }}",
    "{{ strftime_now('%Y' * 10 ** 8) }}",
    "{% include '/etc/passwd' %}",
    "{{ messages | tojson(indent=10 ** 9) }}",
    "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
)
TALK = [{"role": "user", "content": "Is it on?"}, {"role": "assistant", "content": "It is."}]


def attack(room: Room) -> list[Trial]:
    """Each template once, by packing conversations with it; chance plays no part."""
    return room.children.each(lambda server, template: one(room, server, template), TEMPLATES)


def one(room: Room, server: Server, template: str) -> Trial:
    """One trial: what is packed is packed, what is not is refused in a line that names the template's file."""
    place = room.place()
    (place / "talks.jsonl").write_text((json.dumps({"messages": TALK}) + "\n") * 3)
    file = place / "odd.jinja"
    file.write_text(template)
    outcome = server.call(pack(room, place, file), memory=MEMORY)
    verdict, reason = ("harmless", "packed") if outcome.code == 0 and not failed(outcome) else verdict_of(outcome)
    if verdict == "noticed" and str(file) not in reason:
        verdict = "silent"
    drop(place)
    return Trial("hostile templates", template[:80], verdict, reason)


def pack(room: Room, place: Path, template: Path) -> list[str]:
    """The call that packs conversations with a template."""
    return ["command", "jaxpt-data", "pack", f"--input={place}/talks.jsonl", f"--output={place}/out", "--kind=chat",
            f"--template={template}", f"--sequence_length={LENGTH}",
            f"--tokenizer={room.victims.folder}/tokenizer.model"]  # fmt: skip
