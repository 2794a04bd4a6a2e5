"""Calls that must be refused, and the sentence they are refused with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from dream_accel.errors import DreamAccelError


def refused(call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """The sentence a call is refused with."""
    with pytest.raises(DreamAccelError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def refused_unlaunched(call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """The same of a call that must not get as far as looking for a backend to run an operator."""
    launched = AssertionError("an operator was launched before the call was refused")
    with mock.patch("dream_accel.backends.refusal", side_effect=launched):
        return refused(call, *args, **kwargs)
