"""The `python:FILE:CLASS` back-end: a model of the user's own, three methods of a class, or in a program an object or a callable."""
