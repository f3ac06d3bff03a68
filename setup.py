"""Packaging of robust_tf: the library, its programs and its configurations."""

import pathlib

import setuptools

ROOT = pathlib.Path(__file__).parent
PROGRAMS = (
    *("train", "evaluate", "verify", "certify", "export"),
    *("losses", "pareto", "plot", "soft_targets"),
)
IMAGENET = ["array_record>=0.6"]
ONNX = ["onnx>=1.16", "onnxruntime>=1.18"]

setuptools.setup(
    name="robust_tf",
    version="0.1.0",
    description="Certified adversarial robustness for TensorFlow 2 and Keras 3",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11,<3.14",
    packages=[
        *setuptools.find_packages(include=["robust_tf", "robust_tf.*"]),
        "robust_tf.bin",
        "robust_tf.gin_configs",
    ],
    # The programs and configurations lie at the top of the checkout, and travel
    # inside the package when it is installed.
    package_dir={"robust_tf.bin": "bin", "robust_tf.gin_configs": "gin_configs"},
    package_data={
        "robust_tf": ["py.typed", "**/*.tsv"],
        "robust_tf.gin_configs": ["**/*.gin"],
    },
    entry_points={
        "console_scripts": [
            f"robust-tf-{name} = robust_tf.bin.{name}:run" for name in PROGRAMS
        ]
    },
    install_requires=[
        "absl-py>=2.1",
        "gin-config>=0.5",
        "importlib_resources>=6",  # Used, but not declared, by tensorflow-datasets.
        "keras>=3.12",
        "matplotlib>=3.8",
        "numpy>=1.26",
        "pillow>=10",
        "psutil>=5.9",
        "rich>=13",
        "scikit-learn>=1.4",
        "scipy>=1.11",
        "tensorboard>=2.20",  # No longer brought along by tensorflow.
        "tensorflow>=2.20",
        "tensorflow-datasets>=4.9.7",
    ],
    extras_require={
        "dev": [
            *("build", "hypothesis", "pytest>=8", "pytest-xdist", "ruff"),
            *(*IMAGENET, *ONNX),
        ],
        "gpu": ["tensorflow[and-cuda]>=2.20"],
        "imagenet": IMAGENET,  # Images of many shapes, read one by one.
        "onnx": ONNX,  # Networks of other frameworks; without it, all else works.
        "torch": ["torch>=2.6"],  # Files of published weights; `.npz` goes without.
    },
)
