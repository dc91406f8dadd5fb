"""A gate's decision in the formats that build services read: JUnit XML and Markdown."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from calvin_eval.errors import UsageError
from calvin_eval.results.gate_spec import Check, Decision, Undecided

FILE = "junit.xml"
"""Name of a decision's file in a run folder."""

_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SIGNS = {"pass": "✅", "fail": "❌", "undecided": "❔"}


def junit_xml(decision: Decision, name: str, undecided: Undecided = "code") -> str:
    """One test case per condition.

    Args:
        decision: the gate's.
        name: of the run.
        undecided: whether an undecided condition is a skipped test (`pass`) or a failure.
    """
    cases = [_case(check, name, undecided) for check in decision.checks]
    failures = sum(case.find("failure") is not None for case in cases)
    skipped = sum(case.find("skipped") is not None for case in cases)
    suite = ElementTree.Element(
        "testsuite",
        name="calvin-eval gate",
        tests=str(len(cases)),
        failures=str(failures),
        errors="0",
        skipped=str(skipped),
    )
    facts = {
        "run": name,
        "outcome": decision.outcome,
        "confidence": f"{decision.confidence:g}",
        "chains used": f"{decision.used} of {decision.planned}",
    }
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in facts.items():
        ElementTree.SubElement(properties, "property", name=key, value=_clean(value))
    suite.extend(cases)
    if decision.remarks:
        ElementTree.SubElement(suite, "system-out").text = _clean("\n".join(decision.remarks))
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    text = ElementTree.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def markdown(decision: Decision, name: str, undecided: Undecided = "code") -> str:
    """A heading, a table of the conditions, and how to read it."""
    counts = "" if undecided == "code" or decision.outcome != "undecided" else f" ({undecided})"
    lines = [
        f"## {_SIGNS[decision.outcome]} calvin-eval gate: {decision.outcome}{counts}",
        "",
        f"Run `{_cell(name)}`, {decision.used} of {decision.planned} chains, decided with "
        f"{100 * decision.confidence:g} % confidence"
        + (", while it ran." if decision.sequential else "."),
        "",
        "| condition | at least | found | interval | data | |",
        "| --- | ---: | ---: | --- | --- | --- |",
    ]
    for check in decision.checks:
        found = "nothing" if check.estimate is None else f"{check.estimate:.3f}"
        lines.append(
            f"| {_cell(check.name)} | {check.threshold:g} | {found} | {check.low:.3f} to "
            f"{check.high:.3f} ({100 * check.level:.4g} %) | {check.used}, {check.method} | "
            f"{_SIGNS[check.outcome]} {check.outcome} |"
        )
    lines += ["", *(f"- {_cell(remark)}" for remark in decision.remarks)]
    if decision.outcome == "undecided":
        lines += ["An interval that holds the threshold decides nothing; more chains narrow it."]
    return "\n".join(lines).rstrip() + "\n"


def _case(check: Check, name: str, undecided: Undecided) -> ElementTree.Element:
    case = ElementTree.Element(
        "testcase", classname=_clean(f"calvin-eval.gate.{name}"), name=_clean(check.name)
    )
    if check.outcome == "fail":
        ElementTree.SubElement(case, "failure", type="fail", message=_clean(str(check)))
    elif check.outcome == "undecided" and undecided == "pass":
        ElementTree.SubElement(case, "skipped", message=_clean(str(check)))
    elif check.outcome == "undecided":
        ElementTree.SubElement(case, "failure", type="undecided", message=_clean(str(check)))
    else:
        ElementTree.SubElement(case, "system-out").text = _clean(str(check))
    return case


def _clean(text: str) -> str:
    """Without characters for which XML has no word."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("`", "'")


def write_junit(
    decision: Decision, run: Path, path: Path | None = None, undecided: Undecided = "code"
) -> None:
    """Write a decision as JUnit XML.

    Args:
        decision: the gate's.
        run: the run folder.
        path: of the file; `junit.xml` in the run folder if None.
        undecided: what an undecided gate counts as.

    Raises:
        UsageError: the file cannot be written.
    """
    write_text(path or run / FILE, junit_xml(decision, run.resolve().name, undecided))


def write_text(path: Path, text: str, *, append: bool = False) -> None:
    """Write or append to a text file; raises UsageError where that is impossible."""
    try:
        with path.open("a" if append else "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; name another file") from error
