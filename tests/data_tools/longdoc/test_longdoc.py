"""Long documents: dependencies first, each text once, distance that pays, and domains kept in balance."""

import gzip
import json
from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest

from data_tools.longdoc.dependence import _counts_before, dependence
from data_tools.longdoc.distribution import divergence, measure, rebalance
from data_tools.longdoc.imports import dependencies
from data_tools.longdoc.links import Walk, links_in, walks
from data_tools.longdoc.repositories import header, join_repository, order
from data_tools.perplexity.ngram import NgramModel
from jaxpt.errors import JaxptError

FILES = {
    "README.md": "hello",
    "src/pkg/__init__.py": "from .core import run",
    "src/pkg/core.py": "import os\nfrom pkg.base import (Thing,\n    Other)\nfrom . import helpers",
    "src/pkg/base.py": "import sys",
    "src/pkg/helpers.py": "from .sub import deep",
    "src/pkg/sub/__init__.py": "",
    "src/pkg/sub/deep.py": "from ..base import Thing",
    "tests/test_core.py": "import pkg.core, pkg.base as b",
    "web/app.js": "const a = require('./lib/a');\nimport b from '../web/b.ts'",
    "web/lib/a/index.js": "import x from 'react'",
    "web/b.ts": "",
    "go.mod": "module example.org/tool",
    "main.go": 'package main\nimport (\n\t"fmt"\n\tu "example.org/tool/util"\n)',
    "util/util.go": "package util",
    "util/util_test.go": 'package util\nimport "example.org/tool/util"',
    "crate/src/lib.rs": "mod parse;\npub mod eval;",
    "crate/src/parse.rs": "use crate::eval::Value;",
    "crate/src/eval/mod.rs": "",
    "c/main.c": '#include "io.h"\n#include <stdio.h>',
    "c/include/io.h": "",
    "j/a/b/C.java": "import a.b.D;",
    "j/a/b/D.java": "",
    "docs/index.rst": "words",
}


def test_imports_of_seven_languages_resolve_inside_the_repository():
    found = dependencies(FILES)
    want = {
        "src/pkg/__init__.py": {"src/pkg/core.py"},
        "src/pkg/core.py": {"src/pkg/base.py", "src/pkg/helpers.py"},
        "src/pkg/helpers.py": {"src/pkg/sub/deep.py"},
        "src/pkg/sub/deep.py": {"src/pkg/base.py"},
        "tests/test_core.py": {"src/pkg/core.py", "src/pkg/base.py"},
        "web/app.js": {"web/lib/a/index.js", "web/b.ts"},
        "main.go": {"util/util.go"},
        "util/util_test.go": {"util/util.go"},
        "crate/src/lib.rs": {"crate/src/parse.rs", "crate/src/eval/mod.rs"},
        "crate/src/parse.rs": {"crate/src/eval/mod.rs"},
        "c/main.c": {"c/include/io.h"},
        "j/a/b/C.java": {"j/a/b/D.java"},
    }
    assert {p: d for p, d in found.items() if d} == want


def test_every_file_comes_once_and_after_what_it_imports():
    found = order(FILES)
    assert sorted(found) == sorted(FILES)
    assert found[0] == "README.md"
    for path, needs in dependencies(FILES).items():
        assert all(found.index(need) < found.index(path) for need in needs)


def test_the_order_does_not_depend_on_the_order_of_the_files():
    assert order(dict(reversed(FILES.items()))) == order(FILES)


def test_a_circle_of_imports_is_broken_where_least_is_missing():
    files = {"a.py": "import b", "b.py": "import c", "c.py": "import a, b", "d.py": "import c"}
    assert order(files) == ["a.py", "b.py", "c.py", "d.py"]
    assert order({**files, "a.py": "import b, c"})[-1] == "d.py"


def test_a_circle_stands_behind_what_it_imports_and_before_what_imports_it():
    circle = {"b.py": "import c, y, z", "c.py": "import b, x, y, z"}
    files = {"a.py": "import b", **circle, "x.py": "import y", "y.py": "import z", "z.py": ""}
    assert order(files) == ["z.py", "y.py", "x.py", "b.py", "c.py", "a.py"]


def test_a_file_of_data_that_is_imported_stands_before_its_user():
    files = {
        "README.md": "",
        "a.js": "require('./table.json')",
        "b.js": "require('./a')",
        "table.json": "{}",
        "z.txt": "",
    }
    assert order(files) == ["README.md", "table.json", "a.js", "b.js", "z.txt"]


def _reached(needs):
    """By brute force: what each file imports, directly or through others."""
    out = {path: set(wanted) for path, wanted in needs.items()}
    while True:
        more = {path: wanted.union(*(out[w] for w in wanted)) for path, wanted in out.items()}
        if more == out:
            return out
        out = more


def _backward(files):
    """Edges whose file stands before what it imports: all of them, and those that are not part of a circle."""
    needs, place = dependencies(files), {path: i for i, path in enumerate(order(files))}
    reached = _reached(needs)
    wrong = [(a, b) for a, wanted in needs.items() for b in wanted if place[b] > place[a]]
    return len(wrong), sum(a not in reached[b] for a, b in wrong)


def test_in_any_graph_only_edges_inside_circles_go_backward():
    rng, circular = np.random.default_rng(0), 0
    for _ in range(60):
        names = [f"m{i}" for i in range(12)]
        imports = {n: [names[j] for j in np.flatnonzero(rng.random(12) < 0.12)] for n in names}
        files = {f"{n}.py": "".join(f"import {m}\n" for m in imports[n]) for n in names}
        assert sorted(order(files)) == sorted(files)
        assert order(dict(reversed(files.items()))) == order(files)
        backward, outside = _backward(files)
        assert outside == 0
        circular += backward
    assert circular > 20  # there were circles


def test_joined_files_carry_their_path_and_are_cut_between_files():
    whole = join_repository(FILES)
    assert len(whole) == 1
    for path, at in whole[0].files:
        assert whole[0].text[at:].startswith(header(path) + "\n" + FILES[path])
    parts = join_repository(FILES, max_chars=200)
    assert "".join(p.text for p in parts) == whole[0].text
    assert all(len(p.text) <= 200 for p in parts)
    assert [header(p) for p in ("a.py", "a.md", "a.go", "Makefile")] == [
        "# a.py",
        "<!-- a.md -->",
        "// a.go",
        "# Makefile",
    ]


def test_real_repositories_stand_in_dependency_order(shared):
    repos = defaultdict(dict)
    with gzip.open(shared / "data/code/repos.jsonl.gz", "rt") as lines:
        for line in lines:
            row = json.loads(line)
            repos[row["repo"]][row["path"]] = row["text"]
    for name, least in (("psf/requests", 0.8), ("pallets/click", 0.8), ("expressjs/express", 0.95)):
        found = {p: i for i, p in enumerate(order(repos[name]))}
        edges = [(a, b) for a, needs in dependencies(repos[name]).items() for b in needs]
        assert len(edges) > 20  # the Python ones import in circles, so not all can be satisfied
        assert np.mean([found[b] < found[a] for a, b in edges]) >= least
        by_path = {p: i for i, p in enumerate(sorted(repos[name]))}
        assert np.mean([by_path[b] < by_path[a] for a, b in edges]) < least  # sorting by path would not do
    for name in repos:
        assert _backward(repos[name])[1] == 0


def test_each_text_is_used_once_within_the_budget():
    rng = np.random.default_rng(0)
    ids = [f"d{i}" for i in range(200)]
    links = {id: [ids[j] for j in rng.integers(0, 200, 3)] for id in ids}
    tokens = {id: int(rng.integers(10, 400)) for id in ids}
    chains = walks(links, tokens, Walk(max_tokens=1000))
    assert sorted(id for c in chains for id in c) == sorted(ids)
    for chain in chains:
        assert len(chain) == 1 or sum(tokens[i] for i in chain) <= 1000
        assert all(b in links[a] or a in links[b] for a, b in pairwise(chain))
    assert walks(dict(reversed(links.items())), tokens, Walk(max_tokens=1000)) == chains


def test_a_hub_does_not_chain_strangers_beyond_its_cap():
    links = {"hub": [f"d{i:03}" for i in range(100)], **{f"d{i:03}": [] for i in range(100)}}
    chains = walks(links, dict.fromkeys(links, 1), Walk(max_degree=4))
    assert max(len(c) for c in chains) <= 3
    assert sum(len(c) for c in chains) == 101
    with pytest.raises(JaxptError, match="max_degree=0"):
        walks(links, dict.fromkeys(links, 1), Walk(max_degree=0))


def test_links_are_read_from_markdown_and_html_and_compared_without_ornament():
    text = (
        "see [a](../b/) and [c](https://www.Other.org/x?y#z) <a href='/index.html'>home</a> [d](#here) [e](http://[bad)"
    )
    assert links_in(text, "https://site.org/p/q") == ["site.org/b", "other.org/x", "site.org"]


def test_counting_before_equals_a_plain_loop():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 9, 60).astype(np.uint64)
    every, recent = _counts_before(tokens, 7)
    for i in range(60):
        assert every[i] == (tokens[:i] == tokens[i]).sum()
        assert recent[i] == (tokens[max(i - 7, 0) : i] == tokens[i]).sum()


def test_far_context_pays_in_a_book_and_not_in_unrelated_texts_joined(shared):
    with gzip.open(shared / "data/english/books.jsonl.gz", "rt") as lines:
        books = [json.loads(line)["text"] for line, _ in zip(lines, range(6))]
    with gzip.open(shared / "data/noisy_web/redpajama_c4-rp_1.jsonl.gz", "rt") as lines:
        web = [json.loads(line)["text"] for line in lines]
    background = NgramModel.train([*web[:300], *(b[-60_000:] for b in books)], 1)
    real = [dependence(b[:120_000], background=background) for b in books]
    joined = dependence("\n".join(web[300:])[:120_000], background=background)
    assert min(r.gain for r in real) > joined.gain
    assert all(r.against() is None for r in real)


def test_logs_and_tables_are_not_taken_for_long_documents():
    log = "\n".join(["GET /index.html 200", "GET /style.css 200"] * 2000)
    seen = dependence(log)
    assert seen.unique_lines < 0.01
    assert seen.against()[0] == "lines"
    assert dependence("too short").against(4096) == ("short", 2)
    assert dependence("too short").against() == ("gain", 0.0)  # nothing far away
    with pytest.raises(JaxptError, match="near=0"):
        dependence("x", near=0)


def test_shares_histogram_and_divergence_are_what_counting_gives():
    seen = measure(["web", "web", "book"], [1000, 3000, 12000])
    assert seen.domains == {"book": 0.75, "web": 0.25}
    assert seen.histogram == {9: 1000, 11: 3000, 13: 12000}
    assert seen.longer == {4096: 0.75, 16384: 0.0, 65536: 0.0}
    assert divergence({"a": 1.0}, {"a": 1.0}) == 0.0
    assert divergence({"a": 1.0}, {"b": 1.0}) == 1.0


def test_rebalancing_restores_the_base_mixture_where_the_limit_allows():
    before = measure(["web", "book", "code"], [600, 100, 300])
    after = measure(["web", "book", "code"], [100, 100, 100])
    weights, shares = rebalance(before, after, most=10)
    assert shares == pytest.approx(before.domains)
    assert weights == pytest.approx({"web": 6, "book": 1, "code": 3})
    limited, shares = rebalance(before, after, most=2)
    assert max(limited.values()) == 2
    assert divergence(shares, before.domains) < divergence(after.domains, before.domains)
    with pytest.raises(JaxptError, match="most >= 1"):
        rebalance(before, after, most=0.5)
