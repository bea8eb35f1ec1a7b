"""Every example of docs/examples.md runs, as a script or as a notebook, and writes what it says."""

import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from source import ROOT

from fourm.errors import UserError  # noqa: F401
