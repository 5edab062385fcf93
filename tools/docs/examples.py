#!/usr/bin/env python3
"""Makes C++ files of the examples in the documents and the public headers, so that a compiler checks them.

    examples.py OUT_FOLDER

writes snippets.cpp and readme.cpp. An error in an example is reported at its line of the document.

Three forms of example are read:
  - a ```cpp fence of README.md and docs/*.md. A fence is the body of a function, which may use the names that
    tests/docs/names.h declares. The fence with a main() in README.md is a program, readme.cpp. A fence that is not
    meant to compile is marked: ```cpp sketch.
  - the column "C++" of a table under a line <!-- compiled -->: each row's code spans are statements.
  - in include/lora/*.h, the indented lines of a comment after a line "// Example:".
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
INCLUDE = re.compile(r"\s*#\s*include\b")
MAIN = re.compile(r"\bint main\(")
CODE_SPAN = re.compile(r"(`+)(.+?)\1(?!`)")


class Example:
    """`lines` of C++ that begin at line `number` of a document, counted from 1."""

    def __init__(self, document, number, lines):
        self.document, self.number, self.lines = document, number, lines

    def is_program(self):
        return any(MAIN.search(line) for line in self.lines)

    def place(self, offset=0):
        return f'#line {self.number + offset} "{self.document}"'


def fences(document, text):
    """The ```cpp fences that are meant to compile."""
    start = None
    for number, line in enumerate(text.splitlines(), 1):
        if start is None and line.startswith("```"):
            start, language, lines = number, line[3:].strip(), []
        elif start is not None and line.startswith("```"):
            if language == "cpp":
                yield Example(document, start + 1, lines)
            start = None
        elif start is not None:
            lines.append(line)
    if start is not None:
        raise ValueError(f"{document}:{start}: this fence has no end")


def cells(row):
    """A table row's cells: split at |, but not at \\|."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row.strip())[1:-1]]


def statement(code):
    return code if code.rstrip().endswith((";", "}")) else code + ";"


def rows(document, text):
    """The code of the column "C++" of each row of the tables under <!-- compiled -->."""
    marked, column = False, None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() == "<!-- compiled -->":
            marked, column = True, None
        elif marked and line.startswith("|"):
            row = cells(line)
            if column is None:
                if "C++" not in row:
                    raise ValueError(f'{document}:{number}: a compiled table has no column "C++"')
                column = row.index("C++")
            elif column < len(row):
                code = [statement(span[1].strip()) for span in CODE_SPAN.findall(row[column])]
                if code:
                    yield Example(document, number, [" ".join(code)])
        elif line.strip():
            marked = False


def comments(document, text):
    """The indented lines after each line "// Example:" of a comment."""
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if re.fullmatch(r"\s*// Example:.*", line):
            body = []
            for follows in lines[number:]:
                match = re.fullmatch(r"\s*//(\s{2,}\S.*|\s*)", follows)
                if not match:
                    break
                body.append(match[1])
            if not any(code.strip() for code in body):
                raise ValueError(f"{document}:{number}: this example has no indented lines")
            yield Example(document, number + 1, body)


def without_includes(example):
    return ["" if INCLUDE.match(line) else line for line in example.lines]


def snippets(examples, names):
    """One file with a function for each example. What examples include stands first."""
    out = ["// Made by tools/docs/examples.py."]
    for include in dict.fromkeys(line.strip() for example in examples for line in example.lines if INCLUDE.match(line)):
        out.append(include)
    out += [f'#include "{names}"', "", "namespace documents {"]
    for index, example in enumerate(examples):
        header = example.document.suffix == ".h"
        out += ["", f"void example_{index}() {{", *(["using namespace lora;"] if header else [])]
        out += [example.place(), *without_includes(example), "}"]
    return "\n".join(out + ["", "}  // namespace documents", ""])


def program(example):
    return "\n".join(["// Made by tools/docs/examples.py.", example.place(), *example.lines, ""])


def read(root):
    """All examples: (the program of README.md, the others)."""
    programs, others = [], []
    for document in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        text = document.read_text(encoding="utf-8")
        for example in [*fences(document, text), *rows(document, text)]:
            if not example.is_program():
                others.append(example)
            elif document.name == "README.md" and not programs:
                programs.append(example)
            else:
                raise ValueError(f"{document}:{example.number}: only README.md has a program, and only one")
    for header in sorted((root / "include/lora").glob("*.h")):
        others += comments(header, header.read_text(encoding="utf-8"))
    if not programs:
        raise ValueError(f"{root / 'README.md'}: no fence with a main()")
    return programs[0], others


def write(file, text):
    """Leaves a file that has this text already as it is, so that nothing is compiled again."""
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")


def main():
    out = pathlib.Path(sys.argv[1])
    try:
        readme, others = read(ROOT)
    except ValueError as error:
        sys.exit(str(error))
    write(out / "readme.cpp", program(readme))
    write(out / "snippets.cpp", snippets(others, ROOT / "tests/docs/names.h"))


if __name__ == "__main__":
    main()
