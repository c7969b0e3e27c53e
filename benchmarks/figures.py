"""The measured tables of README.md, generated from `benchmarks/results`: `python -m benchmarks.figures`.

A table stands between `<!-- figures:NAME -->` and `<!-- /figures -->` and shows `results/NAME.json`; text
outside the markers is never touched. A test fails where README and results differ.
"""

import re
from pathlib import Path

from benchmarks.record import RESULTS, ROOT, Cell, Result

README = ROOT / "README.md"
OPENING = re.compile(r"^<!-- figures:([a-z0-9_-]+) -->$", re.MULTILINE)
CLOSING = "<!-- /figures -->"
BLOCK = re.compile(rf"{OPENING.pattern}\n.*?^{CLOSING}$", re.MULTILINE | re.DOTALL)


def load(name: str, results: Path = RESULTS) -> Result:
    """The result `name`.

    Raises:
        FileNotFoundError: nobody recorded it.
        pydantic.ValidationError: it lacks a field, or has one too many.
    """
    return Result.model_validate_json((results / f"{name}.json").read_text())


def update(text: str, results: Path = RESULTS) -> str:
    """`text` with every table of figures written anew.

    Raises:
        ValueError: a marker has no partner.
    """
    blocks = len(BLOCK.findall(text))
    openings, closings = len(OPENING.findall(text)), text.count(CLOSING)
    if not blocks == openings == closings:
        raise ValueError(f"{openings} opening and {closings} closing markers make only {blocks} blocks")
    return BLOCK.sub(lambda block: render(block[1], load(block[1], results)), text)


def render(name: str, result: Result) -> str:
    """The block of one result, markers included."""
    lines = text_lines(result) if result.columns == ["output"] else table_lines(result)
    origin = f"`{result.command}` · commit {result.commit} · {result.date} · {result.machine}"
    notes = [origin] if result.note is None else [result.note, "", origin]
    return "\n".join([f"<!-- figures:{name} -->", *lines, "", *notes, CLOSING])


def table_lines(result: Result) -> list[str]:
    """A Markdown table."""
    lines = [row_of(result.columns), row_of(["---"] * len(result.columns))]
    return lines + [row_of([cell(value) for value in row]) for row in result.rows]


def text_lines(result: Result) -> list[str]:
    """A result of the one column `output` is what a command printed, line by line."""
    return ["```", *(str(line) for (line,) in result.rows), "```"]


def row_of(cells: list[str]) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(text.replace("|", r"\|") for text in cells) + " |"


def cell(value: Cell) -> str:
    """Three significant digits, whole numbers in full, and a plain word for what was not measured."""
    match value:
        case None:
            return "not measured"
        case str():
            return value
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def main() -> None:
    """Write the tables into README.md."""
    README.write_text(update(README.read_text()))


if __name__ == "__main__":
    main()
