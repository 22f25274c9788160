"""Triton's interpreter without work that it repeats: tests of kernels take half as long, with the same results.

The interpreter replaces the functions of `triton.language` for each launch, and again for each call of a function by a
kernel, where nothing is left to replace. It computes whether integers overflow, for assertions that it leaves out.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec

import pytest


@pytest.fixture(scope="session", autouse=True)
def quick_interpreter() -> Iterator[None]:
    """Leave out repeated work of Triton's interpreter, where it is used and has the known parts."""
    if find_spec("triton") is None:
        yield
        return
    from triton.runtime import interpreter

    with pytest.MonkeyPatch.context() as patch:
        options = interpreter.interpreter_builder.options
        if hasattr(options, "sanitize_overflow") and not options.debug:
            patch.setattr(interpreter.interpreter_builder, "options", replace(options, sanitize_overflow=False))
        if hasattr(interpreter, "_LangPatchScope"):
            patch.setattr(interpreter, "_patch_lang", _patch_once(interpreter))
        if hasattr(interpreter, "_get_np_dtype"):
            find, pointers = interpreter._get_np_dtype, interpreter.tl.pointer_type
            cached = functools.cache(find)
            patch.setattr(
                interpreter,
                "_get_np_dtype",
                lambda of: find(of.scalar) if isinstance(of.scalar, pointers) else cached(of.scalar),
            )
        yield


def _patch_once(interpreter) -> Callable:
    """A replacement of `_patch_lang(function)`, which returns what undoes it, for one launch after another."""
    original, scopes, patched = interpreter._patch_lang, [], set()

    class Scope(interpreter._LangPatchScope):
        def restore(self) -> None:
            while scopes:
                scopes.pop().restore()
            patched.clear()

    @functools.cache
    def languages(function: Callable) -> frozenset[str]:
        names = {value.__name__ for value in function.__globals__.values() if hasattr(value, "__file__")}
        return frozenset(names & {"triton.language", "triton.language.core"})

    def patch_lang(function: Callable) -> Scope:
        if not patched >= languages(function):
            patched.update(languages(function))
            scopes.append(original(function))
        return Scope()

    return patch_lang
