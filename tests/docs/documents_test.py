#!/usr/bin/env python3
"""Tests tools/docs: which examples are read and where a compiler reports them, and what the documents must hold."""
import pathlib
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools/docs"))
sys.dont_write_bytecode = True
import check_documents  # noqa: E402
import command_outputs  # noqa: E402
import examples  # noqa: E402

README = "# A\n\n```cpp\n#include <a.h>\nint main() {}\n```\n"


class Examples(unittest.TestCase):
    def read(self, **files):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name, text in {"README": README, **files}.items():
                file = root / {"README": "README.md", "doc": "docs/doc.md", "header": "include/lora/header.h"}[name]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
            program, others = examples.read(root)
        return program, [(example.number, example.lines) for example in others]

    def test_a_fence_starts_at_its_first_line(self):
        program, others = self.read(doc="text\n\n```cpp\nf();\ng();\n```\n")
        self.assertEqual((program.number, program.lines), (4, ["#include <a.h>", "int main() {}"]))
        self.assertEqual(others, [(4, ["f();", "g();"])])

    def test_other_fences_are_passed_over(self):
        self.assertEqual(self.read(doc="```\na\n```\n```cpp sketch\nb\n```\n```cmake\nc\n```\n")[1], [])

    def test_a_row_is_the_code_of_the_column(self):
        table = "<!-- compiled -->\n| Python | C++ |\n| --- | --- |\n| `p` | `f(a \\| b)`, `g();` |\n| q | nothing |\n"
        self.assertEqual(self.read(doc=table)[1], [(4, ["f(a | b); g();"])])

    def test_only_marked_tables_are_compiled(self):
        table = "| C++ |\n| --- |\n| `f()` |\n"
        self.assertEqual(self.read(doc=table)[1], [])
        self.assertEqual(self.read(doc="<!-- compiled -->\nText.\n\n" + table)[1], [])

    def test_a_comment_ends_where_it_is_not_indented(self):
        header = "// What f does.\n// Example:\n//   f();\n//\n//   g();\n// More.\nvoid f();\n"
        self.assertEqual(self.read(header=header)[1], [(3, ["   f();", "", "   g();"])])

    def test_errors_are_at_the_line_of_the_document(self):
        with self.assertRaisesRegex(ValueError, "doc.md:2: this fence has no end"):
            self.read(doc="\n```cpp\n")
        with self.assertRaisesRegex(ValueError, "doc.md:2: only README.md has a program"):
            self.read(doc="```cpp\nint main() {}\n```\n")
        example = examples.Example(pathlib.Path("doc.md"), 7, ["#include <b.h>", "f();"])
        text = examples.snippets([example], "names.h")
        self.assertIn('#include <b.h>\n#include "names.h"', text)
        self.assertIn('#line 7 "doc.md"\n\nf();\n}', text)


class CommandOutputs(unittest.TestCase):
    def test_steps_are_commands_with_their_outputs(self):
        lines = ["```console", "$ lora a \\", "    --b", "one", "$ lora c", "```", "```console sketch", "$ lora d", "```"]
        steps = command_outputs.steps_of(lines)
        self.assertEqual([(s.number, s.command, s.output) for s in steps],
                         [(3, "lora a \\\n    --b", ["one"]), (5, "lora c", [])])
        with self.assertRaisesRegex(ValueError, "line 2"):
            command_outputs.steps_of(["```console", "text"])

    def test_outputs_are_the_same_but_for_what_varies(self):
        same = command_outputs.same
        self.assertTrue(same(["0.12 s, 3 MB", "x"], ["1.5 s, 2.5 GB", "x"]))
        self.assertTrue(same(["a", "…", "z"], ["a", "b", "c", "z"]))
        self.assertFalse(same(["a", "…", "z"], ["a", "b"]))
        self.assertFalse(same(["rank 8"], ["rank 9"]))
        self.assertFalse(same([], ["a"]))
        self.assertFalse(same(["a"], []))


class Documents(unittest.TestCase):
    def test_lines_and_links(self):
        self.assertEqual(list(check_documents.problems(ROOT)), [])

    def test_what_is_a_problem(self):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / "README.md").write_text(
                "# One thing\n" + "x" * 121 + "\n```\n" + "x" * 121 + "\n```\n"
                "[a](b.md) [c](#one-thing) [d](#two)\nsrc/io and (tests/a.cpp)\n")
            (root / "tests").mkdir()
            (root / "tests/a.cpp").write_text("TEST(Suite, One) {}\nTEST_P(Suite, AnotherTestWithALongName) {}\n")
            (root / "docs").mkdir()
            (root / "docs/behaviour-tests.md").write_text(
                "| a | Suite.One, AnotherTestWithALongName, Suite.O*, Suite.* |\n| b | Suite.Two, Other.* |\n")
            found = list(check_documents.problems(root))
        self.assertEqual(found, [
            "README.md:2: 121 characters, at most 120", "README.md:6: no b.md",
            "README.md:6: no heading #two in README.md", "README.md:7: no src/io",
            "docs/behaviour-tests.md:2: no test Suite.Two", "docs/behaviour-tests.md:2: no test Other.*"])


if __name__ == "__main__":
    unittest.main()
