"""Loops of other code bases, written for the tests: the names that are in scope where a page changes a line, no more.

Every file is named after the code base and its file. What it imports from other files of the code base is made by
:mod:`foreign`.
"""
