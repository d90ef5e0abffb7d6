"""Objectives, one file each: what a row means to a model."""
