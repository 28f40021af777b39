r"""The text of a lesson: a little Markdown and a little TeX, as notebooks read them, become HTML and MathML.

    to_html(r"Let $\alpha$ be **small**.")        paragraphs, headings, lists, tables, `code`, links, $…$ and $$…$$
    mathml(r"\frac{1}{2}")                       <math>…</math>
    highlighted("x = 1")                         Python, coloured

Only what the lessons use is understood, and anything else raises ValueError: a formula is never shown half right.
"""

from __future__ import annotations

import html
import io
import keyword
import re
import tokenize

# ── Markdown ────────────────────────────────────────────────────────────────────────────────────────────────────────


def to_html(text: str) -> str:
    """Markdown as HTML. A block that begins with "<" stays as it is."""
    return "\n".join(map(_block, re.split(r"\n\s*\n", text.strip("\n"))))


def _block(block: str) -> str:
    if block.startswith("<"):
        return block
    if heading := re.match(r"(#+) (.*)", block):
        level = len(heading[1])
        return f"<h{level}>{inline(heading[2])}</h{level}>"
    if block.startswith("$$") and block.endswith("$$"):
        return f'<div class="formula">{mathml(block[2:-2], display=True)}</div>'
    if re.match(r"(-|\d+\.) ", block):
        items = re.split(r"^(?:-|\d+\.) ", block, flags=re.M)[1:]
        tag = "ul" if block.startswith("-") else "ol"
        return f"<{tag}>" + "".join(f"<li>{inline(item.strip())}</li>" for item in items) + f"</{tag}>"
    if block.startswith("|"):
        head, _, *rows = [row.strip().strip("|").split("|") for row in block.splitlines()]
        return table_html([cell.strip() for cell in head], [[cell.strip() for cell in row] for row in rows])
    return f"<p>{inline(block)}</p>"


def table_html(head: list[str], rows: list[list[str]]) -> str:
    """A table; cells are Markdown."""
    cells = lambda row, tag: "".join(f"<{tag}>{inline(cell)}</{tag}>" for cell in row)  # noqa: E731
    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{cells(head, "th")}</tr></thead><tbody>{body}</tbody></table></div>'


_INLINE = re.compile(r"`(?P<code>[^`]+)`|\$(?P<math>[^$]+)\$|\[(?P<link>[^\]]+)\]\((?P<to>[^)]+)\)"
                     r"|\*\*(?P<strong>.+?)\*\*|\*(?P<em>[^*]+)\*", re.DOTALL)  # fmt: skip


def inline(text: str) -> str:
    """Markdown within a paragraph."""
    out, at = [], 0
    for found in _INLINE.finditer(text):
        out.append(html.escape(text[at : found.start()], quote=False))
        at = found.end()
        match found.lastgroup:
            case "code":
                out.append(f"<code>{html.escape(found['code'], quote=False)}</code>")
            case "math":
                out.append(mathml(found["math"]))
            case "to":
                out.append(f'<a href="{html.escape(found["to"])}">{inline(found["link"])}</a>')
            case tag:
                out.append(f"<{tag}>{inline(found[tag])}</{tag}>")
    return "".join(out) + html.escape(text[at:], quote=False)


# ── TeX ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

LETTERS = dict(alpha="α", beta="β", theta="θ", varphi="φ", phi="φ", lambda_="λ", epsilon="ε", pi="π", partial="∂",
               nabla="∇", ell="ℓ", infty="∞", prime="′")  # fmt: skip
LETTERS["lambda"] = LETTERS.pop("lambda_")
OPERATORS = dict(cdot="·", cdots="⋯", dots="…", to="→", times="×", approx="≈", pm="±", le="≤", ge="≥", ne="≠",
                 leftarrow="←", mid="|", lVert="‖", rVert="‖", circ="∘", quad="\u2003", Rightarrow="⇒")  # fmt: skip
SCRIPT = dict(L="ℒ", T="𝒯")
FUNCTIONS = ("sin", "cos", "tanh", "exp", "log")
LARGE = dict(sum="∑", prod="∏")
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\d+(?:\.\d+)?|\s+|.", re.DOTALL)


def mathml(tex: str, display: bool = False) -> str:
    """A formula in TeX as MathML.

    Raises:
        ValueError: a command that is not known, or a brace without its partner.
    """
    tokens = [t for t in _TOKEN.findall(tex) if not t.isspace()]
    body = _row(tokens, tex)
    if tokens:
        raise ValueError(f"{tokens[0]!r} closes nothing in the formula {tex!r}")
    block = ' display="block"' if display else ""
    return f"<math{block}>{body}</math>"


_CLOSING = ("}", "\\right", "&", "\\\\", "\\end")


def _row(tokens: list[str], tex: str) -> str:
    parts = []
    while tokens and tokens[0] not in _CLOSING:
        base, scripts = _atom(tokens, tex), {}
        large = any(f"<mo>{x}</mo>" == base for x in LARGE.values()) or base.startswith("<mrow class=")
        while tokens and tokens[0] in "^_'":
            mark = tokens.pop(0)
            if mark == "'":
                primes = 1
                while tokens and tokens[0] == "'":
                    primes += bool(tokens.pop(0))
                scripts["^"] = f"<mo>{'′″‴'[primes - 1]}</mo>"
            else:
                scripts[mark] = _atom(tokens, tex)
        low, high = scripts.get("_"), scripts.get("^")
        kind = "under" if large else "sub", "over" if large else "sup"
        if low and high:
            base = f"<m{kind[0]}{kind[1]}>{base}{low}{high}</m{kind[0]}{kind[1]}>"
        elif low or high:
            tag = kind[0] if low else kind[1]
            base = f"<m{tag}>{base}{low or high}</m{tag}>"
        parts.append(base)
    return "<mrow>" + "".join(parts) + "</mrow>" if len(parts) != 1 else parts[0]


def _group(tokens: list[str], tex: str) -> str:
    """The text between braces."""
    if not tokens or tokens.pop(0) != "{":
        raise ValueError(f"a brace is wanted in the formula {tex!r}")
    body = _row(tokens, tex)
    if not tokens or tokens.pop(0) != "}":
        raise ValueError(f"a brace is not closed in the formula {tex!r}")
    return body


def _atom(tokens: list[str], tex: str) -> str:
    if not tokens:
        raise ValueError(f"the formula {tex!r} ends too early")
    token = tokens[0]
    if token == "{":
        return _group(tokens, tex)
    tokens.pop(0)
    name = token[1:]
    if not token.startswith("\\"):
        if token[0].isdigit():
            return f"<mn>{token}</mn>"
        if token.isalpha():
            return f"<mi>{token}</mi>"
        return f"<mo>{html.escape(token.replace('-', '−'))}</mo>"
    if name in LETTERS:
        return f"<mi>{LETTERS[name]}</mi>"
    if name in OPERATORS:
        return f"<mo>{OPERATORS[name]}</mo>"
    if name in FUNCTIONS:
        return f'<mi>{name}</mi><mspace width="0.17em"></mspace>'
    if name in LARGE:
        return f"<mo>{LARGE[name]}</mo>"
    match name:
        case "frac":
            return f"<mfrac>{_group(tokens, tex)}{_group(tokens, tex)}</mfrac>"
        case "sqrt":
            return f"<msqrt>{_group(tokens, tex)}</msqrt>"
        case "underbrace":
            return f'<mrow class="brace">{_group(tokens, tex)}</mrow>'
        case "mathcal":
            tokens[:3] = [tokens[1]]
            return f"<mi>{SCRIPT[tokens.pop(0)]}</mi>"
        case "text":
            words = []
            tokens.pop(0)
            while tokens[0] != "}":
                words.append(tokens.pop(0))
            tokens.pop(0)
            return f"<mtext>{html.escape(' '.join(_words(words)))}</mtext>"
        case "left":
            opening, inside = tokens.pop(0), _row(tokens, tex)
            if tokens[:1] != ["\\right"]:
                raise ValueError(f"\\left without \\right in the formula {tex!r}")
            closing = tokens[1]
            del tokens[:2]
            return f"<mrow><mo>{opening}</mo>{inside}<mo>{closing}</mo></mrow>"
        case "begin":
            return _aligned(tokens, tex)
        case "," | ";" | " ":
            return '<mspace width="0.25em"></mspace>'
    raise ValueError(f"{token} is not known in the formula {tex!r}")


def _words(letters: list[str]) -> list[str]:
    """Letters whose spaces were lost: `~` stands for a space."""
    return "".join(letters).split("~")


def _aligned(tokens: list[str], tex: str) -> str:
    """Lines of a derivation, aligned at the first `&` of each."""
    del tokens[: tokens.index("}") + 1]
    rows: list[list[str]] = [[_row(tokens, tex)]]
    while tokens and tokens[0] != "\\end":
        if tokens.pop(0) == "&":
            rows[-1].append(_row(tokens, tex))
        else:
            rows.append([_row(tokens, tex)])
    del tokens[: tokens.index("}") + 1]
    lines = ("".join(f"<mtd>{cell}</mtd>" for cell in row) for row in rows)
    return '<mtable class="aligned">' + "".join(f"<mtr>{line}</mtr>" for line in lines) + "</mtable>"


# ── Python ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def highlighted(source: str) -> str:
    """Python source as HTML: keywords, strings, numbers and comments have a class each."""
    lines = source.splitlines(keepends=True)
    out, row, column = [], 1, 0

    def upto(end_row: int, end_column: int) -> str:
        nonlocal row, column
        text = ""
        while row < end_row and row <= len(lines):
            text, row, column = text + lines[row - 1][column:], row + 1, 0
        if row <= len(lines):
            text, column = text + lines[row - 1][column:end_column], end_column
        return html.escape(text, quote=False)

    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, IndentationError):  # lines from the middle of a function
        return html.escape(source, quote=False)
    for token in tokens:
        out.append(upto(*token.start))
        kind = {tokenize.STRING: "s", tokenize.COMMENT: "c", tokenize.NUMBER: "n"}.get(token.type)
        if token.type == tokenize.NAME and keyword.iskeyword(token.string):
            kind = "k"
        text = upto(*token.end)
        out.append(f'<i class="{kind}">{text}</i>' if kind else text)
    return "".join(out).rstrip("\n")
