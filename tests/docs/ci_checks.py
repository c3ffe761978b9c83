"""The page of the rules of ``runnerctl ci check``, from the rules themselves."""

from __future__ import annotations

from runnerctl.ci.rules import Rule, all_rules
from tests.docs.markup import table

__all__ = ["ci_check_pages"]

HEAD = """\
# Rules of `ci check`

What [`runnerctl ci check`](cli.md#runnerctl-ci-check) looks for in a repository. An *error* fails a run, or
makes a green one worth nothing; a *warning* costs time or trust; a *note* may be right as it is. A line is
left alone when it says why:

```yaml
runs-on: ubuntu-latest # runnerctl: ignore[ci.timeout_missing] the steps have limits of their own
```

The comment may also stand alone on the line before. Without a reason it is a finding itself.

"""
RULE = """
## {id}

{title}. {why}

**Remedy**: {remedy}.{fix}

```text
{example}
```
"""


def ci_check_pages() -> dict[str, str]:
    """``ci-checks.md``."""
    rows = [[f"[{each.id}](#{_anchor(each)})", each.severity, each.title, _fix(each)] for each in all_rules()]
    head = table(["rule", "severity", "finds", "`--fix`"], rows)
    return {"ci-checks.md": HEAD + head + "".join(map(_section, all_rules()))}


def _anchor(rule: Rule) -> str:
    """As GitHub makes it of a heading."""
    return rule.id.replace(".", "")


def _fix(rule: Rule) -> str:
    return "yes" if rule.fixable else ""


def _section(rule: Rule) -> str:
    fix = " `--fix` does it in plain cases." if rule.fixable else ""
    names = ("id", "title", "why", "remedy", "example")
    return RULE.format(**{name: getattr(rule, name) for name in names}, fix=fix)
