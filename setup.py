"""Packaging of flowpipe; every other setting stands in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
# What `flowpipe configs` lists and copies: files, no packages.
DATA = ("configs", "docs", "examples")

setup(
    name="flowpipe",
    version="0.1.0",
    description="Dense optical flow, extracted in parallel and cached, and the two-stream "
    "networks that read it",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    # A bare find_packages() would publish top-level `cli` and `tests`.
    packages=[
        *find_packages(include=["flowpipe", "flowpipe.*"]),
        "flowpipe.cli",
        *(f"flowpipe.cli.{group}" for group in find_packages(str(HERE / "cli"))),
        *(f"flowpipe.{folder}" for folder in DATA),
    ],
    package_dir={"flowpipe.cli": "cli", **{f"flowpipe.{folder}": folder for folder in DATA}},
    package_data={
        "flowpipe": ["py.typed"],
        "flowpipe.cache": ["FORMAT.md"],
        "flowpipe.models.weights": ["parity.json"],
        "flowpipe.report": ["templates/*"],
        "flowpipe.view": ["page/*"],
        **{f"flowpipe.{folder}": ["*.toml", "*.md", "*/*.md"] for folder in DATA},
    },
    install_requires=[
        "numpy>=1.26",
        "opencv-contrib-python>=4.10",
        "av>=18",
        "h5py>=3.16",
        "hdf5plugin>=7",
        "zstandard>=0.22",
        "imagecodecs>=2025.3.30",
        "numba>=0.61",
        "joblib>=1.4",
        "click>=8.1",
        "rich>=13",
        "torch>=2.6",
        "safetensors>=0.4",
        "scikit-learn>=1.4",
        "jinja2>=3.1",
        "tomli-w>=1.0",
    ],
    extras_require={
        "onnx": ["onnx>=1.18", "onnxscript>=0.5", "onnxruntime>=1.20"],
        "dask": ["distributed>=2024.1"],
        "tensorboard": ["tensorboard>=2.18"],
        "transformers": ["transformers>=4.50"],
        "dev": [
            "distributed>=2024.1",
            "pytest>=8",
            "pytest-xdist>=3.5",
            "hypothesis>=6.100",
            "mypy>=1.15",
            "ruff>=0.12",
            "setuptools>=77",
            "triton>=3.6; sys_platform == 'linux'",
            "tensorboard>=2.18",
            "onnx>=1.18",
            "onnxscript>=0.5",
            "onnxruntime>=1.20",
            "sphinx>=8.2",
            "myst-parser>=4",
            "furo>=2025.7",
        ],
    },
    entry_points={"console_scripts": ["flowpipe=flowpipe.cli.main:main"]},
    classifiers=[
        "License :: OSI Approved :: MIT License",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
)
