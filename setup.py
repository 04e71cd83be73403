"""Packaging of t5patches. Metadata lives here; tool settings in pyproject.toml."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "t5patches/__init__.py").read_text(), re.M
)[1]

setuptools.setup(
    name="t5patches",
    version=VERSION,
    description="Targeted updates of fine-tuned T5 models",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[
        *setuptools.find_packages(
            include=["t5patches", "t5patches.*", "t5x_embedded", "t5x_embedded.*"]
        ),
        # `tasks` and `gin` are too common as names in site-packages.
        "t5patches.tasks",
        "t5patches.gin",
    ],
    package_dir={"t5patches.tasks": "tasks", "t5patches.gin": "gin"},
    package_data={
        "t5patches.annotate.tagger": ["training.cfg"],
        "t5patches.gin": ["**/*.gin"],
        "t5patches.quickstart": ["data/*"],
        "t5patches.report": ["templates/*"],
        "t5patches.run": ["macros.toml"],
        "t5x_embedded": ["README.md"],
    },
    entry_points={"console_scripts": ["t5patches = t5patches.cli:main"]},
    install_requires=[
        "absl-py",
        "clu>=0.0.12",
        "etils[epath]",
        "flax>=0.12",
        "gin-config>=0.5",
        "jax>=0.10",
        "jinja2",
        "matplotlib",
        "numpy",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "pyarrow",  # local Parquet files
        "pydantic>=2.10",
        "rouge-score",
        "sacrebleu>=2.4",
        "safetensors>=0.8",
        "sentencepiece>=0.2.1",
        "scipy",
        "seqio>=0.0.20",
        "spacy>=3.8",
        "tabulate",
        "tensorboard",  # clu imports it and does not require it
        "tensorflow>=2.21",
        "tensorflow-datasets",
        "tensorstore",
        "tqdm",
    ],
    extras_require={
        # Newer sentencepiece does not import beside the protobuf that Beam asks for.
        # google-crc32c: what seqio_cache_tasks writes has checksums.
        "beam": ["apache-beam>=2.77", "google-crc32c", "sentencepiece<0.2.3"],
        "cuda": ["jax[cuda]"],
        "tpu": ["jax[tpu]"],
        # tensorflow-datasets imports importlib_resources where it writes data sets.
        "test": ["hypothesis", "importlib_resources", "pytest", "pytest-xdist"],
        # Each release finds more: these are pinned, the lock file is for those who run.
        "dev": ["basedpyright==1.40.2", "ruff==0.17.6"],
    },
)
