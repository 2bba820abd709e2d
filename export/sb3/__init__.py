"""Stable-Baselines3 and sb3-contrib: their zips as trained policies, without either of them and without unpickling."""

from export.sb3.checkpoint import Sb3Checkpoint as Sb3Checkpoint
from export.sb3.checkpoint import read_sb3 as read_sb3
from export.sb3.normaliser import read_normaliser as read_normaliser
from export.sb3.table import of_sb3 as of_sb3
from export.sb3.wrapped import Told as Told
from export.sb3.wrapped import Wrapped as Wrapped
from export.sb3.wrapped import wrapped as wrapped
