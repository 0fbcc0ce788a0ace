"""Metadata and dependencies, each with an upper bound: one command installs what was tested."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    '^VERSION = "(.+)"', (HERE / "jaxpt" / "cli" / "version.py").read_text(encoding="utf-8"), re.MULTILINE
)[1]

CORE = [
    "jax>=0.10.2,<0.13",
    "flax>=0.12.8,<0.13",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.8,<0.13",
    "grain>=0.2.18,<0.3",
    "array-record>=0.8.3,<0.9",
    "tensorstore>=0.1.86,<0.2",
    "ml-collections>=1.1,<2",
    "absl-py>=2.1,<3",
    "fsspec>=2024.6",
    "sentencepiece>=0.2.3,<0.3",
    "tokenizers>=0.22,<0.24",
    "safetensors>=0.5,<0.9",
    "jinja2>=3.1.6,<4",
    "numpy>=2.0,<3",
    "pyarrow>=20,<27",
    "zstandard>=0.23,<0.26",
    "isal>=1.7,<2",  # reads gz three times as fast as zlib
    "msgspec>=0.20,<0.23",  # reads JSON lines three times as fast as json, and writes texts five times
    "xxhash>=3.5,<5",
    "tqdm>=4.66,<5",
    "tensorboardX>=2.6,<3",
    "matplotlib>=3.9,<4",
]

EXTRAS = {
    "tpu": ["jax[tpu]>=0.10.2,<0.13"],
    "cuda": ["jax[cuda13]>=0.10.2,<0.13"],
    "gpu": [  # attention on Hopper and Blackwell; its parts that jaxpt takes are private, hence the exact version
        "jax[cuda13]>=0.10.2,<0.13; python_version < '3.12'",
        "jax[cuda13]>=0.11.2,<0.13; python_version >= '3.12'",
        "tokamax==0.0.17; python_version >= '3.12'",
    ],
    "data": [
        "datasketch>=2,<3",
        "daft>=0.7.20,<0.8",
        "numba>=0.61,<0.70",
        "fasttext-numpy2>=0.10.4,<0.11",
        "ftfy>=6.3,<7",
        "py3langid>=0.4,<0.5",
        "rjieba>=0.2.2,<0.3",
        "resiliparse>=2.0,<3",
        "scipy>=1.13,<2",
    ],
    "gcs": ["gcsfs>=2024.6"],
    "s3": ["s3fs>=2024.6"],
    "tfds": ["tensorflow-datasets>=4.9.9,<5", "importlib_resources>=6,<8"],
    "kenlm": ["kenlm>=0.3,<0.4"],
    "eval": [
        "lm_eval>=0.4.13,<0.5",
        "pyyaml>=6,<7",
    ],  # the tasks of jaxpt eval; installs datasets, pandas, scikit-learn
    "serve": [  # the server of jaxpt serve
        "starlette>=1,<2",
        "uvicorn>=0.40,<1",
        "prometheus_client>=0.21,<1",
    ],
    "ray": ["ray>=2.50,<3"],
    "dev": [
        "pytest>=8,<10",
        "pytest-xdist>=3.6,<4",
        "hypothesis>=6.100,<7",
        "ruff>=0.17,<0.18",
        "mypy>=2.4,<2.5",
        "datatrove>=0.10,<0.11",  # the reference that cleaning is compared with
        "spacy>=3.8,<4",  # what datatrove splits words with
        "jieba>=0.42.1,<0.43",  # what spaCy splits Chinese with
        "openai>=2,<4",  # the client that jaxpt serve is tested with
        "tenacity>=8,<10",  # what lm_eval's client of servers needs beside requests and aiohttp
    ],
    "parity": ["torch==2.13.0", "transformers>=5.20,<5.30", "accelerate>=1.10,<2"],
}

setup(
    name="jaxpt",
    version=VERSION,
    description="Pretrain a language model of the shape you want, out of one that exists (JAX; run on CPUs and a GPU)",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["jaxpt", "jaxpt.*", "data_tools", "data_tools.*"]),
    include_package_data=True,
    package_data={"": ["py.typed", "*.txt", "*.json", "*.jinja", "*.html", "*.css", "*.yaml"]},
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["jaxpt=jaxpt.cli:main", "jaxpt-data=data_tools.__main__:main"]},
)
