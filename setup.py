"""Hands environment.yml's packages to pip, so that they are written once; all else is in pyproject.toml."""

import runpy

import setuptools

setuptools.setup(install_requires=runpy.run_path("flowclip_kit/environment.py")["requirements"]("environment.yml"))
