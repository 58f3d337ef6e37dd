#!/usr/bin/env python3
"""Prints a block of a document: documented.py FILE SECTION LANGUAGE NUMBER, such as the second `yaml` block below a heading.

Called by hack/lib-backup.sh, which runs what readers copy. Blocks in lists are unindented; headings of any level end a section.
"""

import re
import sys
import textwrap


def blocks(text, section, language):
    """The blocks below the heading, whose info strings begin with the language."""
    heading, fence, lines = None, None, []
    for line in text.splitlines():
        mark = re.match(r"\s*```(.*)", line)
        if mark and fence is None:
            fence, lines = mark[1].split(" ")[0], []
        elif mark:
            if heading == section and fence == language:
                yield textwrap.dedent("\n".join(lines)) + "\n"
            fence = None
        elif fence is not None:
            lines.append(line)
        elif line.startswith("#"):
            heading = line.lstrip("#").strip()


def main():
    path, section, language, number = sys.argv[1:]
    with open(path) as file:
        found = list(blocks(file.read(), section, language))
    if len(found) < int(number):
        sys.exit(f"error: {path} has {len(found)} blocks of {language} in {section!r}, and number {number} was asked for")
    print(found[int(number) - 1], end="")


if __name__ == "__main__":
    main()
