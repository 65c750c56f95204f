"""The gate's outcome for CI: JUnit XML, GitHub annotations, the job summary's file. Texts come from models and files: all are escaped."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

# XML 1.0 does not allow these, not even escaped
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_TAGS = {  # of JUnit, by outcome, and the attribute that counts them
    "fail": ("failure", "failures"),
    "inconclusive": ("skipped", "skipped"),
    "skipped": ("skipped", "skipped"),
    "cannot detect": ("error", "errors"),
    "error": ("error", "errors"),
}


@dataclass(frozen=True, slots=True)
class CI:
    """`summary`: a file to append markdown to, or None; `annotations`: whether GitHub reads standard output."""

    summary: str | None
    annotations: bool

    @classmethod
    def from_environment(cls, summary: str | None, environment: Mapping[str, str] = os.environ) -> "CI":
        return cls(summary or environment.get("GITHUB_STEP_SUMMARY") or None, environment.get("GITHUB_ACTIONS") == "true")


def annotate(ci: CI, level: str, title: str, message: str) -> None:
    """Print `::error title=..::message`, if GitHub reads standard output."""
    if ci.annotations:
        print(annotation(level, title, message), flush=True)


def annotation(level: str, title: str, message: str) -> str:
    """One workflow command, its texts escaped as GitHub's toolkit does (a line break would begin another command)."""
    for char in "%\r\n":
        title, message = (part.replace(char, f"%{ord(char):02X}") for part in (title, message))
    for char in ":,":
        title = title.replace(char, f"%{ord(char):02X}")
    # "##[" is an older form of a command
    printable = ["".join(c if c.isprintable() else " " for c in part).replace("##[", "## [") for part in (title, message)]
    return f"::{level} title={printable[0]}::{printable[1]}"


def junit(cases: Sequence[tuple[str, str, str]]) -> str:
    """(task, outcome, text) -> JUnit XML, one test case per task. A fail is a failure; an inconclusive outcome is skipped."""
    counts = {"tests": len(cases), "failures": 0, "errors": 0, "skipped": 0}
    suite = ElementTree.Element("testsuite", name="evalkit gate")
    for task, outcome, text in cases:
        case = ElementTree.SubElement(suite, "testcase", classname="evalkit.gate", name=_xml(task))
        tag, count = _TAGS.get(outcome, ("system-out", ""))
        element = ElementTree.SubElement(case, tag)
        if count:
            counts[count] += 1
            element.set("message", _xml(text))
        if tag != "skipped":
            element.text = _xml(text)
    suite.attrib |= {name: str(count) for name, count in counts.items()}
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def problem_junit(problem: str) -> str:
    """JUnit XML of a gate that could not be decided: one error."""
    return junit([("comparable", "error", problem)])


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
