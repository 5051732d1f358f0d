"""Makes what Sphinx writes as an EPUB one that epubcheck has no fault with: pages as XHTML, each file known to the manifest.

The pages hold output of other libraries (tables of pandas, figures of matplotlib), which is HTML: void elements are not closed
and names of characters are used, at which a strict reader shows nothing of the page.
"""

import mimetypes
import posixpath
import re
import zipfile
from pathlib import Path

from justhtml import Element, JustHTML, Text
from lxml import etree

from decoupled_esc.publish.downloads import once

SPACES = {
    "html": "http://www.w3.org/1999/xhtml",
    "svg": "http://www.w3.org/2000/svg",
    "math": "http://www.w3.org/1998/Math/MathML",
    "epub": "http://www.idpf.org/2007/ops",
    "xlink": "http://www.w3.org/1999/xlink",
    "xml": "http://www.w3.org/XML/1998/namespace",
}
XHTML = f"{{{SPACES['html']}}}"
OPF = "{http://www.idpf.org/2007/opf}"
# What the manifest says of a page that has one of these elements.
PROPERTIES = {
    "mathml": [f"{{{SPACES['math']}}}math"],
    "svg": [f"{{{SPACES['svg']}}}svg"],
    "scripted": [f"{XHTML}{name}" for name in ("script", "form", "input")],
}


def mend(book: Path, folder: Path) -> None:
    """Rewrites the EPUB `book`, which Sphinx made in `folder`, in place."""
    with zipfile.ZipFile(book) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    pages = {name for name in files if name.endswith(".xhtml") and name != "nav.xhtml"}
    asked, properties = set(), {}
    for name in sorted(pages):
        page = as_xhtml(files[name].decode())
        for one in page.iter(f"{XHTML}a", f"{XHTML}link", f"{XHTML}img"):
            key = "src" if one.tag == f"{XHTML}img" else "href"
            path, mark, rest = (one.get(key) or "").partition("#")
            if path and ":" not in path:
                if path.endswith(".html"):
                    one.set(key, path.removesuffix(".html") + ".xhtml" + mark + rest)
                elif not path.endswith(".xhtml"):
                    asked.add(posixpath.normpath(posixpath.join(posixpath.dirname(name), path)))
        properties[name] = " ".join(key for key, tags in PROPERTIES.items() if next(page.iter(*tags), None) is not None)
        files[name] = etree.tostring(page, encoding="utf-8", xml_declaration=True, doctype="<!DOCTYPE html>")
    added = sorted(name for name in asked - files.keys() if (folder / name).is_file())
    files |= {name: (folder / name).read_bytes() for name in added}
    for name in ("nav.xhtml", "toc.ncx"):
        files[name] = re.sub(r'"[^"#/]+/\.\./', '"', files[name].decode()).encode()
    contents = re.findall(r'<a href="([^"#]+)"', files["nav.xhtml"].decode())
    files["content.opf"] = _manifest(files["content.opf"], properties, added, contents)
    with zipfile.ZipFile(book, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files, key=lambda name: name != "mimetype"):  # first and as it is: readers look for it there
            archive.writestr(name, files[name], zipfile.ZIP_STORED if name == "mimetype" else zipfile.ZIP_DEFLATED)


def as_xhtml(page: str) -> etree._Element:
    """The page as a tree, read as browsers read HTML; what XHTML does not allow where it stands is moved or renamed."""
    (whole,) = JustHTML(once(page), sanitize=False).query("html")
    root = _tree(whole)
    head = root.find(f"{XHTML}head")
    for style in list(root.iterfind(f"{XHTML}body//{XHTML}style")):
        _lift(style)
        style.tail = None
        head.append(style)
    for paragraph in root.findall(f".//{XHTML}summary//{XHTML}p"):
        if "expanded" in paragraph.get("class", ""):  # "Hide the code", beside "Show the code": styles choose one
            paragraph.getparent().remove(paragraph)
        paragraph.tag = f"{XHTML}span"
    for entry in root.iterfind(".//*[@role='doc-biblioentry']"):  # a role that is deprecated
        del entry.attrib["role"]
    return root


def _tree(node: Element) -> etree._Element:
    made = etree.Element(f"{{{SPACES[node.namespace]}}}{node.name}", nsmap={None: SPACES[node.namespace]})
    for key, value in node.attrs.items():
        space, colon, name = key.rpartition(":")
        if not colon and key != "xmlns":
            made.set(key, value or "")
        elif space in SPACES:
            made.set(f"{{{SPACES[space]}}}{name}", value or "")
    for child in node.children:
        if isinstance(child, Element):
            made.append(_tree(child))
        elif isinstance(child, Text):
            if len(made):
                made[-1].tail = (made[-1].tail or "") + child.data
            else:
                made.text = (made.text or "") + child.data
    return made


def _lift(element: etree._Element) -> None:
    """Takes an element out of its place, leaving the text behind it."""
    parent, before = element.getparent(), element.getprevious()
    if before is None:
        parent.text = (parent.text or "") + (element.tail or "")
    else:
        before.tail = (before.tail or "") + (element.tail or "")
    parent.remove(element)


def _manifest(opf: bytes, properties: dict[str, str], added: list[str], contents: list[str]) -> bytes:
    """The package document with each page's properties, the files added, and the pages in the order of the contents."""
    root = etree.fromstring(opf)
    manifest, spine = root.find(f"{OPF}manifest"), root.find(f"{OPF}spine")
    for i, name in enumerate(added):
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        etree.SubElement(manifest, f"{OPF}item", id=f"added-{i}", href=name, attrib={"media-type": kind})
    ids = {item.get("href"): item for item in manifest}
    for name, words in properties.items():
        ids[name].attrib.pop("properties", None)
        if words:
            ids[name].set("properties", words)
    rest = [name for name in properties if name not in contents]
    for old in list(spine):
        spine.remove(old)
    for name in [*dict.fromkeys(contents), *rest]:
        etree.SubElement(
            spine, f"{OPF}itemref", idref=ids[name].get("id"), **({} if name in contents else {"linear": "no"})
        )
    return etree.tostring(root, encoding="utf-8", xml_declaration=True)
