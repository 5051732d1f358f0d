"""Sphinx extension: renders mathematics as MathML while building, so that a page needs no script to show it.

`latex2mathml` does the translation; `to_mathml` supplies what it lacks (aligned, gathered, operator names, symbols
that it takes for identifiers, fonts that browsers no longer read from `mathvariant`) and refuses what it cannot
translate.
A formula that is refused is a Sphinx warning, so a strict build fails rather than showing TeX to a reader.
"""

import html
import re
import xml.etree.ElementTree as ET

from docutils import nodes
from latex2mathml.converter import convert_to_element
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

logger = logging.getLogger(__name__)

# One name for every environment that lays out the same; a starred name, because Sphinx numbers equations, not TeX.
ENVIRONMENTS = {
    "aligned": "split", "align": "split", "align*": "split",
    "gathered": "matrix", "gather": "matrix", "gather*": "matrix",
    "equation": "equation*",
}
LAYOUTS = {"split", "equation*", "cases", "array", "matrix", "pmatrix", "bmatrix", "vmatrix"}
LIMITS = {"max", "min", "sup", "inf", "lim"}  # a subscript stands beneath these in a display
# Symbols that TeX, too, sets as ordinary letters. Every other lone symbol is an operator.
ORDINARY = set("∞∅…′%#°ℓ")
# First code points of the mathematical alphabets: capitals, small letters, digits (None where Unicode has none).
ALPHABETS = {
    "bold": (0x1D400, 0x1D41A, 0x1D7CE),
    "bold-italic": (0x1D468, 0x1D482, None),
    "double-struck": (None, None, 0x1D7D8),
}


def to_mathml(tex: str, display: bool) -> str:
    r"""The `<math>` element for `tex`, given without its delimiters.

    Raises ValueError where a command or a construct is not known or the TeX is malformed.
    """
    source = re.sub(r"\\label\{[^}]*\}|\\(?:nonumber|notag)\b", "", tex).strip()
    source = re.sub(r"\\operatorname\*?\{arg\s*\\,\s*(max|min)\}|\\arg\s*\\(max|min)\b", r"\\arg\1\2", source)
    source = re.sub(r"\\sim(?![a-zA-Z])", "∼", source)  # which latex2mathml would take for ~
    source = re.sub(r"\\(begin|end)\{([^}]*)\}", lambda m: rf"\{m[1]}{{{ENVIRONMENTS.get(m[2], m[2])}}}", source)
    unknown = set(re.findall(r"\\begin\{([^}]*)\}", source)) - LAYOUTS
    unknown |= set(re.findall(r"\\operatorname\*\{[^}]*\}", source))
    if unknown:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
    if r"\\" in source and r"\begin{" not in source:
        source = rf"\begin{{split}}{source}\end{{split}}"
    try:
        math = convert_to_element(source, display="block" if display else "inline")
    except Exception as error:  # its errors share no base class, and a malformed formula can also end in IndexError
        raise ValueError(f"malformed TeX ({type(error).__name__})") from error
    for element in list(math.iter()):
        element.text = html.unescape(element.text or "")
        _mend(element)
    for element in list(math.iter()):
        _space(element)
        if "\\" in element.text or (element.tag != "mtext" and "&" in element.text) or element.get("linebreak"):
            raise ValueError(f"cannot translate {element.text or 'a line break here'}")
    return ET.tostring(math, encoding="unicode")


def _mend(element: ET.Element) -> None:
    """Corrects in place what latex2mathml gets wrong in `element` and its children."""
    text, variant = element.text, element.get("mathvariant")
    if element.tag == "mtext":
        element.text = re.sub(r"\\([%_&#$])", r"\1", text)
    elif element.tag == "mi" and len(text) == 1 and not text.isalpha() and text not in ORDINARY:
        element.tag = "mo"
    elif element.tag == "mo" and text.isalpha() and len(text) > 1 and not element.get("movablelimits"):
        element.tag = "mi"
    elif element.tag == "mspace" and element.get("width") == "negativethinmathspace":
        element.set("width", "-0.167em")
    if variant in ALPHABETS:
        element.text = "".join(_styled(char, ALPHABETS[variant]) for char in text)
    if variant in ALPHABETS or variant == "italic":
        del element.attrib["mathvariant"]
    _join_upright(element)
    if element.tag == "msub" and (element[0].get("movablelimits") or element[0].text in LIMITS):
        element.tag = "munder"
        element[0].tag = "mo"  # only an operator's limits move aside in running text
        element[0].set("movablelimits", "true")


def _styled(char: str, alphabet: tuple) -> str:
    for start, first in zip(alphabet, "Aa0"):
        if start and first <= char <= {"A": "Z", "a": "z", "0": "9"}[first]:
            return chr(start + ord(char) - ord(first))
    return char


def _join_upright(row: ET.Element) -> None:
    r"""Joins the letters of `\mathrm{word}` into one identifier: letters set one by one are spaced as a product."""
    if row.tag != "mrow" or len(row) < 2 or any(e.get("mathvariant") != "normal" or e.tag != "mi" for e in row):
        return
    row[0].text = "".join(e.text for e in row)
    del row[0].attrib["mathvariant"]
    for extra in list(row)[1:]:
        row.remove(extra)


def _space(row: ET.Element) -> None:
    """Spaces `row` as TeX does: thin spaces around a function's name that touches a symbol, none after a sign."""
    if row.tag not in ("math", "mrow", "mtd", "mstyle"):
        return
    for place, (before, after) in reversed(list(enumerate(zip(row, list(row)[1:]), start=1))):
        touching = not {before.tag, after.tag} & {"mo", "mspace", "mtext"}
        if touching and (_is_function(before) and after.tag != "mrow" or _is_function(after)):
            row.insert(place, ET.Element("mspace", width="0.167em"))
        if before.tag == after.tag == "mo" and after.text in "−+" and before.text not in ")]}|∣":
            after.set("form", "prefix")


def _is_function(element: ET.Element) -> bool:
    name = element[0] if element.tag in ("msub", "msup") else element
    return name.tag == "mi" and len(name.text) > 1


def _rendered(writer, node: nodes.Element, display: bool) -> str:
    try:
        return to_mathml(node.astext(), display)
    except ValueError as error:
        logger.warning("math %r: %s", node.astext(), error, location=node, type="mathml")
        return f"<code>{writer.encode(node.astext())}</code>"


def visit_math(writer, node: nodes.math) -> None:
    writer.body.append(writer.starttag(node, "span", "", CLASS="math") + _rendered(writer, node, False) + "</span>")
    raise nodes.SkipNode


def visit_math_block(writer, node: nodes.math_block) -> None:
    writer.body.append(writer.starttag(node, "div", CLASS="math"))
    writer.body.append(f'<div class="formula">{_rendered(writer, node, True)}</div>')
    if node["number"]:
        writer.body.append(f'<span class="eqno">({get_node_equation_number(writer, node)})')
        writer.add_permalink_ref(node, "Link to this equation")
        writer.body.append("</span>")
    writer.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app) -> dict:
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
