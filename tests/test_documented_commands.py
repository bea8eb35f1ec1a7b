"""Every ``fourm ...`` line that a document shows can be typed: its options and arguments are those
that the verb has.
"""

import re
import shlex
from itertools import dropwhile, groupby

import click
import pytest
from source import ROOT

from fourm.cli.program import Program, verbs

DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))


def commands_of(text: str) -> list[list[str]]:
    """The words of each command of ``fourm`` in the shell blocks of a document. What may be left
    out stands in brackets there.
    """
    found = []
    for block in re.findall(r"```sh\n(.*?)```", text, re.S):
        for line in block.replace("\\\n", " ").splitlines():
            reader = shlex.shlex(line, posix=True, punctuation_chars=";&|")
            reader.whitespace_split = True
            words = [word.strip("[]") for word in reader if word != "[KEY=VALUE]..."]
            for is_break, part in groupby(words, lambda word: set(word) <= set(";&|")):
                command = list(dropwhile(lambda word: "=" in word, part))
                if not is_break and command[:1] == ["fourm"] and command[1:2]:
                    found.append(command[1:])
    return found


def refusal(words: list[str]) -> str | None:
    """What the verb says of the words, unless it is that a file of the example is not here."""
    program = Program("fourm")
    with click.Context(program, info_name="fourm") as context:
        try:
            _, command, rest = program.resolve_command(context, list(words))
            assert command is not None
            command.make_context(words[0], rest, parent=context)
        except click.exceptions.Exit:
            return None
        except (click.NoSuchOption, click.MissingParameter) as error:
            return error.format_message()
        except click.BadParameter:
            return None  # a file or folder that the reader has
        except click.UsageError as error:
            return error.format_message()
    return None


def test_the_check_sees_a_wrong_option_and_a_word_too_many():
    assert "--outt" in (refusal(["evaluate", "model", "data", "--outt", "x"]) or "")
    assert refusal(["completion", "bash", "more"])
    assert commands_of("```sh\nA=1 fourm run x --only y  # why\nls | fourm clean x\n```") == [
        ["run", "x", "--only", "y"],
        ["clean", "x"],
    ]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_of_documents_can_be_typed(path):
    wrong = {" ".join(words): refusal(words) for words in commands_of(path.read_text())}
    assert not {words: said for words, said in wrong.items() if said}


def test_the_page_of_commands_has_the_first_line_of_each_verbs_help():
    lines = (ROOT / "docs" / "commands.md").read_text().splitlines()
    rows = {
        name: f"| `fourm {name}` | {entry.load().get_short_help_str(limit=200).rstrip('.')} |"
        for name, entry in verbs().items()
        if name != "fusion"  # former names
    }
    assert [row for row in rows.values() if row not in lines] == []
    assert sum(line.startswith("| `fourm ") for line in lines) == len(rows)
