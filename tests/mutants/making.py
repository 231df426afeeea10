"""Mutants of a source file: mutmut's operators, on all of a module, decorated functions and module level included.

Nothing is changed in annotations, decorators, `__all__` and the arguments of `len` and `isinstance` (as mutmut has
it), in arguments that name a device, which only a machine with an accelerator could tell from others (it cannot fork),
and in the words of an error's message.
"""

from __future__ import annotations

import ast
import itertools
from dataclasses import dataclass

import libcst as cst
from libcst.metadata import CodeRange, WhitespaceInclusivePositionProvider
from mutmut.mutation.mutators import mutation_operators

__all__ = ["Mutant", "mutants"]


@dataclass(frozen=True)
class Mutant:
    """One change of a source file.

    Args:
        function: the outermost function it lies in, such as "Ranks.select"; "" outside of functions.
        was: the changed lines as they were, spaces collapsed.
        becomes: the lines in their place.
        source: the whole file with the change.
    """

    function: str
    was: str
    becomes: str
    source: str

    @property
    def name(self) -> tuple[str, str, str]:
        """By what a mutant is known, also after lines elsewhere have changed."""
        return self.function, self.was, self.becomes

    def __str__(self) -> str:
        return f"{self.function or 'module'}:\n    - {self.was}\n    + {self.becomes}"


def mutants(source: str) -> list[Mutant]:
    """All mutants of a source file that compile and differ from it and from each other."""
    wrapper = cst.MetadataWrapper(cst.parse_module(source))
    finder = _Finder()
    wrapper.visit(finder)
    begins = [0, *itertools.accumulate(len(line) for line in source.splitlines(keepends=True))]
    seen, made = {_meaning(source)}, []
    for function, span, changed in finder.found:
        start, end = (begins[place.line - 1] + place.column for place in (span.start, span.end))
        code = source[:start] + wrapper.module.code_for_node(changed) + source[end:]
        meaning = _meaning(code)
        if meaning is not None and meaning not in seen:
            seen.add(meaning)
            made.append(Mutant(function, *_difference(source, code), code))
    return made


class _Finder(cst.CSTVisitor):
    """Collects (function, place of a node, what it becomes)."""

    METADATA_DEPENDENCIES = (WhitespaceInclusivePositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, CodeRange, cst.CSTNode]] = []
        self._around: list[cst.ClassDef | cst.FunctionDef] = []
        self._raises = 0

    def on_visit(self, node: cst.CSTNode) -> bool:
        if _untouched(node):
            return False
        if isinstance(node, cst.ClassDef | cst.FunctionDef):
            self._around.append(node)
        self._raises += isinstance(node, cst.Raise)
        if not (self._raises and isinstance(node, cst.BaseString)):
            for kind, operator in mutation_operators:
                if isinstance(node, kind):
                    changes = [changed for changed in operator(node) if not _of_device(node, changed)]
                    if changes:
                        span: CodeRange = self.get_metadata(WhitespaceInclusivePositionProvider, node)
                        self.found += [(self._function(), span, changed) for changed in changes]
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if self._around and original_node is self._around[-1]:
            self._around.pop()
        self._raises -= isinstance(original_node, cst.Raise)

    def _function(self) -> str:
        names: list[str] = []
        for node in self._around:
            names.append(node.name.value)
            if isinstance(node, cst.FunctionDef):
                return ".".join(names)
        return ""


def _untouched(node: cst.CSTNode) -> bool:
    if isinstance(node, cst.Annotation | cst.Decorator | cst.Import | cst.ImportFrom):
        return True
    if isinstance(node, cst.Call):
        return isinstance(node.func, cst.Name) and node.func.value in ("len", "isinstance")
    if isinstance(node, cst.Arg):
        return _is_device(node)
    if isinstance(node, cst.Assign):
        return isinstance(target := node.targets[0].target, cst.Name) and target.value == "__all__"
    return False


def _of_device(node: cst.CSTNode, changed: cst.CSTNode) -> bool:
    """Whether a call's device is all that changes."""
    if not (isinstance(node, cst.Call) and isinstance(changed, cst.Call)):
        return False
    kept = {id(arg) for arg in changed.args}
    others_kept = all(id(arg) in kept for arg in node.args if not _is_device(arg))
    return changed.func is node.func and others_kept and any(map(_is_device, node.args))


def _is_device(arg: cst.Arg) -> bool:
    if arg.keyword is not None:
        return arg.keyword.value == "device"
    return isinstance(arg.value, cst.Attribute) and arg.value.attr.value == "device"


def _meaning(code: str) -> str | None:
    """The code's tree; None where it does not compile."""
    try:
        compile(code, "mutant", "exec", dont_inherit=True)
    except SyntaxError:
        return None
    return ast.dump(ast.parse(code))


def _difference(old: str, new: str) -> tuple[str, str]:
    """The lines that differ, between those that begin and end both alike."""
    ours, theirs = old.splitlines(), new.splitlines()
    start = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), 0)
    left, right = ours[start:], theirs[start:]
    while left and right and left[-1] == right[-1]:
        left, right = left[:-1], right[:-1]
    return " ".join(" ".join(left).split()), " ".join(" ".join(right).split())
