#!/usr/bin/env python3
"""Checks the documents: no line is longer than 120 characters, and all that they name exists.

That is links within the repository, paths of files and folders, and the tests in docs/behaviour-tests.md. Lines of
tables and of fenced code may be longer: they cannot be broken.
"""
import fnmatch
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
LIMIT = 120
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"(?<![\w/<.-])(?:src|tests|tools|include|examples|bench|models|docs)/[\w./-]*\w")
TEST = re.compile(r"^TEST(?:_[FP])?\((\w+),\s*(\w+)\)", re.MULTILINE)
TEST_NAME = re.compile(r"\b(?:([A-Z]\w+)\.)?((?<=\.)(?:[A-Z]\w*)?\*|(?<=\.)[A-Z]\w+|[A-Z]\w{19,})")


def documents(root):
    yield from sorted(root.glob("*.md"))
    yield from sorted((root / "docs").glob("*.md"))


def lines_of(text):
    """(number, line) of the lines outside fences."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, line


def anchors(text):
    """The names that a link may have after #, as GitHub makes them of headings."""
    for _, line in lines_of(text):
        if heading := re.match(r"#+ (.+)", line):
            yield re.sub(r"[^\w\- ]", "", heading[1].lower()).replace(" ", "-")


def missing_tests(root, lines):
    """(line, test) for the tests in the last column of a table that no file of tests/ has."""
    tests = {match for file in (root / "tests").rglob("*.cpp") for match in TEST.findall(file.read_text())}
    for number, line in lines:
        suite = ""
        for named, name in TEST_NAME.findall(line.rstrip("| ").rpartition("|")[2] if line.startswith("|") else ""):
            suite = named or suite  # "Suite.One, Two": Two is of the same suite
            if not any(s == suite and fnmatch.fnmatchcase(test, name) for s, test in tests):
                yield number, f"{suite}.{name}"


def problems(root):
    for document in documents(root):
        name, text = document.relative_to(root), document.read_text(encoding="utf-8")
        for number, line in lines_of(text):
            if len(line) > LIMIT and not line.startswith("|"):
                yield f"{name}:{number}: {len(line)} characters, at most {LIMIT}"
            for link in LINK.findall(line):
                if re.match(r"[a-z]+:", link):
                    continue
                path, _, anchor = link.partition("#")
                target = document.parent / path if path else document
                if not target.exists():
                    yield f"{name}:{number}: no {path}"
                elif anchor and anchor not in anchors(target.read_text(encoding="utf-8")):
                    yield f"{name}:{number}: no heading #{anchor} in {target.name}"
            for path in PATH.findall(LINK.sub("", line)):
                if not (root / path).exists():
                    yield f"{name}:{number}: no {path}"
        if document.name == "behaviour-tests.md":
            for number, test in missing_tests(root, lines_of(text)):
                yield f"{name}:{number}: no test {test}"


if __name__ == "__main__":
    found = list(problems(ROOT))
    print("\n".join(found) or "documents: in order")
    sys.exit(bool(found))
