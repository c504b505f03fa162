"""Generate the reference tables in docs/ from the code.

    python tools/reference.py

In: the tables of keys in `bulkcert.jobfile.sections`, the providers' declarations, the click
commands and the series of metrics. Out: the same documents with their generated parts rewritten. A
generated part is everything between a line `<!-- generated:NAME -->` and a line
`<!-- /generated:NAME -->`; `parts` has the names. Text outside these markers is written by hand and
never touched.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime
from pathlib import Path

import click

from bulkcert.cli import main
from bulkcert.cli.help import ARGUMENTS, ENVIRONMENT, EXIT_CODES, VARIABLES, epilog
from bulkcert.jobfile.sections import (
    ABORT,
    APPROVAL,
    CERTIFICATES,
    CHECK,
    CIRCUIT_BREAKER,
    CONNECTION,
    DOCUMENTED_LIMITS,
    FORMAT,
    KEYS,
    LIMITS,
    NOTIFY,
    PROTECT,
    REQUIRED,
    RETRY,
    ROLLOUT,
    TOP,
    WINDOW,
    connection,
)
from bulkcert.metrics.figures import Figures
from bulkcert.metrics.series import (
    DURATION,
    DURATION_MEANING,
    INFO,
    INFO_MEANING,
    SERIES,
    Series,
)
from bulkcert.providers import BUILT_IN
from bulkcert.providers.advice import Advice
from bulkcert.providers.base import Action, Field, Key, Provider
from bulkcert.simulator import behaviour

DOCS = Path(__file__).parents[1] / "docs"
DOCUMENTS = (
    *(DOCS / "job-file.md", DOCS / "cli.md", DOCS / "metrics.md"),
    *(DOCS / "providers" / f"{name}.md" for name in BUILT_IN),
)


def render(document: str) -> str:
    """Return a document with its generated parts made anew.

    Raises:
        ValueError: it has a marker whose name is unknown, or that has no end.
    """
    known = parts()

    def part(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in known:
            raise ValueError(f"there is no generated part {name!r}; known are {', '.join(known)}")
        return f"<!-- generated:{name} -->\n\n{known[name]()}\n\n<!-- /generated:{name} -->"

    markers = r"^<!-- generated:(?P<name>\S+) -->$(.*?)^<!-- /generated:(?P=name) -->$"
    rendered, count = re.subn(markers, part, document, flags=re.DOTALL | re.MULTILINE)
    if count != document.count("<!-- generated:") or count != document.count("<!-- /generated:"):
        raise ValueError("a generated part has no end, or no beginning")
    return rendered


def parts() -> dict[str, Callable[[], str]]:
    """Return every generated part by name, as a function that makes it."""
    return {
        "top": lambda: keys_part("", TOP.values()),
        "actions": actions_part,
        "connection": connection_part,
        "fields": fields_part,
        "select": select_part,
        "keys": lambda: keys_part("keys", KEYS.values()),
        "format": lambda: keys_part("format", FORMAT.values()),
        "certificates": lambda: keys_part("certificates", CERTIFICATES.values()),
        "limits": lambda: keys_part("limits", LIMITS.values()),
        "documented-limits": documented_limits_part,
        "retry": lambda: keys_part("retry", RETRY.values()),
        "circuit_breaker": lambda: keys_part("circuit_breaker", CIRCUIT_BREAKER.values()),
        "approval": lambda: keys_part("approval", APPROVAL.values()),
        "protect": lambda: keys_part("protect", PROTECT.values()),
        "rollout": lambda: keys_part("rollout", ROLLOUT.values()),
        "abort": lambda: keys_part("abort", ABORT.values()),
        "check": lambda: keys_part("check", CHECK.values()),
        "window": lambda: keys_part("window", WINDOW.values()),
        "metrics": metrics_part,
        "notify": lambda: keys_part("notify", NOTIFY.values()),
        "commands": commands_part,
        "arguments": arguments_part,
        "variables": variables_part,
        "enos-advice": lambda: advice_part(BUILT_IN["enos"]),
        "enos-remarks": lambda: remarks_part(BUILT_IN["enos"]),
        "apsaramq-advice": lambda: advice_part(BUILT_IN["apsaramq"]),
    } | {f"command-{name}": lambda name=name: command_part(name) for name in commands()}


def metrics_part() -> str:
    """Return a table of all series, with every value of their labels."""
    about = {"provider": "", "action": "", "rehearsal": "", "version": ""}
    nothing = Figures(run="", about=about, ceiling=0.0, most_open_requests=0)

    def meaning(series: Series) -> str:
        if not series.label:
            return series.meaning
        values = ", ".join(f"`{name}`" for name in series.values(nothing))
        return f"{series.meaning} `{series.label}` is one of {values}."

    labels = ", ".join(f"`{name}`" for name in about)
    rows = [
        (f"`{INFO}`", "gauge", f"{INFO_MEANING} They are {labels}."),
        *((f"`{series.name}`", str(series.kind), meaning(series)) for series in SERIES),
        (f"`{DURATION}`", "histogram", DURATION_MEANING),
    ]
    return table(("series", "type", "meaning"), rows)


# ---- the job file


def keys_part(section: str, keys: Iterable[Key]) -> str:
    """Return a table of keys, and an example that sets each of them."""
    keys = list(keys)
    return f"{keys_table(section, keys)}\n\n{example(section, keys)}"


def keys_table(section: str, keys: Iterable[Key], required: Iterable[Key] = ()) -> str:
    """Return a table of keys. Those in `required` are marked so, like those in `REQUIRED`."""
    names = {key.name for key in required}

    def default(key: Key) -> str:
        place = f"{section}.{key.name}" if section else key.name
        return "required" if place in REQUIRED or key.name in names else key.default or "none"

    rows = [(f"`{key.name}`", key.type, default(key), key.meaning) for key in keys]
    return table(("key", "type", "default", "meaning"), rows)


def example(section: str, keys: Iterable[Key]) -> str:
    """Return a block of TOML that sets each of the keys."""
    lines = [f"[{section}]"] if section else []
    lines += [f"{key.name} = {toml(key.example)}" for key in keys]
    return "\n".join(("```toml", *lines, "```"))


def toml(value: object) -> str:
    """Write a value as TOML."""
    match value:
        case str() if "\n" in value:
            return f'"""\n{value}"""'
        case str():
            return f'"{value}"'
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case list():
            return f"[{', '.join(toml(item) for item in value)}]"
        case int() | float() | date():
            return str(value)
        case _:
            raise TypeError(f"an example can't be {value!r}")


def actions_part() -> str:
    """Return a table of actions for each provider."""

    def row(action: Action) -> Sequence[str]:
        ways = ["".join(" and ".join(f"`{field.name}`" for field in w)) for w in action.identifiers]
        sections = ["`[select]`"] if action.select else []
        sections += ["`[keys]`"] if action.makes_keys else []
        return (
            f"`{action.name}`",
            ", or ".join(ways),
            ", ".join(f"`{field.name}`" for field in action.required),
            ", ".join(f"`{field.name}`" for field in action.optional),
            ", ".join(sections),
            action.meaning,
        )

    header = ("action", "a target is named by", "and needs", "optional", "sections", "what it does")
    return "\n\n".join(
        f'`provider = "{provider.name}"`:\n\n{table(header, map(row, provider.actions.values()))}'
        for provider in BUILT_IN.values()
    )


def connection_part() -> str:
    """Return the keys of `[connection]` that all providers have, then those of each provider."""
    blocks = [keys_table("connection", CONNECTION.values())]
    for provider in BUILT_IN.values():
        own = (*provider.connection_required, *provider.connection_optional)
        derived = {"endpoint"} if provider.region_endpoint else set()
        shown = [key for key in connection(provider).values() if key.name not in derived]
        blocks += [
            f'`provider = "{provider.name}"` also has:',
            keys_table("connection", own, provider.connection_required),
            example("connection", shown),
        ]
    return "\n\n".join(blocks)


def fields_part() -> str:
    """Return the fields of each provider, with the actions that take them."""
    return "\n\n".join(
        f'`provider = "{provider.name}"`:\n\n{_fields_table(provider)}\n\n'
        + example("parameters", _fields(provider).values())
        for provider in BUILT_IN.values()
    )


def _fields(provider: Provider) -> dict[str, Field]:
    return {name: f for action in provider.actions.values() for name, f in action.fields.items()}


def _fields_table(provider: Provider) -> str:
    actions = provider.actions.values()

    def row(field: Field) -> Sequence[str]:
        used_by = ", ".join(f"`{action.name}`" for action in actions if field.name in action.fields)
        return f"`{field.name}`", field.type, field.default or "none", used_by, field.meaning

    header = ("field", "type", "default", "actions", "meaning")
    return table(header, map(row, _fields(provider).values()))


def select_part() -> str:
    """Return the conditions of each provider that has any."""
    blocks = []
    for provider in BUILT_IN.values():
        conditions = {c.name: c for action in provider.actions.values() for c in action.select}
        if conditions:
            part = keys_part("select", conditions.values())
            blocks.append(f'`provider = "{provider.name}"`:\n\n{part}')
    return "\n\n".join(blocks)


def documented_limits_part() -> str:
    """Return the limits that each provider documents."""

    def row(provider: Provider) -> Sequence[str]:
        limits = [getattr(provider, name) for name in DOCUMENTED_LIMITS]
        return f"`{provider.name}`", *("none" if n is None else f"{n:g}" for n in limits)

    header = ("provider", *(f"`{name}`" for name in DOCUMENTED_LIMITS))
    return table(header, map(row, BUILT_IN.values()))


def advice_part(provider: Provider) -> str:
    """Return what to do about each code of a provider."""
    if not any(advice.says for advice in provider.advice):
        rows = [(f"`{advice.code}`", advice.text) for advice in provider.advice]
        return table(("code", "what to do"), rows)
    with_texts = {advice.code for advice in provider.advice if advice.says}

    def says(advice: Advice) -> str:
        return advice.says or ("anything else" if advice.code in with_texts else "anything")

    rows = [(f"`{advice.code}`", says(advice), advice.text) for advice in provider.advice]
    return table(("code", "its text contains", "what to do"), rows)


def remarks_part(provider: Provider) -> str:
    """Return what each remark of a provider means."""
    rows = [(f"`{name}`", meaning) for name, meaning in provider.remarks.items()]
    return table(("remark", "meaning"), rows)


# ---- the commands


def commands() -> dict[str, click.Command]:
    """Return all commands by name."""
    context = click.Context(main)
    found = {name: main.get_command(context, name) for name in main.list_commands(context)}
    return {name: command for name, command in found.items() if command}


def commands_part() -> str:
    """Return a table of all commands."""
    rows = [
        (f"[`{name}`](#bulkcert-{name})", command.get_short_help_str(limit=200))
        for name, command in commands().items()
    ]
    return table(("command", "what it does"), rows)


def command_part(name: str) -> str:
    """Return what a command does, how it is called, its options and an example."""
    command = commands()[name]
    arguments = [p.make_metavar(click.Context(command)) for p in command.params if _is_argument(p)]
    usage = " ".join(["bulkcert", name, "[OPTIONS]", *arguments])
    blocks = [f"```\n{usage}\n```", *_paragraphs(command)]
    blocks += [
        f"{group}:\n\n{table(('option', 'value', 'default', 'meaning'), map(_option_row, options))}"
        for group, options in groups(command).items()
    ]
    codes = [(f"`{code}`", meaning) for code, meaning in EXIT_CODES[name].items()]
    blocks.append(f"Exit codes:\n\n{table(('code', 'meaning'), codes)}")
    return "\n\n".join(blocks)


def arguments_part() -> str:
    """Return a table of all arguments."""
    rows = [(f"`{name}`", meaning) for name, meaning in ARGUMENTS.items()]
    return table(("argument", "meaning"), rows)


def variables_part() -> str:
    """Return a table of all environment variables, with the commands that read them."""

    def readers(variable: str) -> str:
        found = [name for name in commands() if variable in ENVIRONMENT[name]]
        return "all" if len(found) == len(commands()) else ", ".join(f"`{n}`" for n in found)

    rows = [(f"`{name}`", readers(name), meaning) for name, meaning in VARIABLES.items()]
    return table(("variable", "read by", "meaning"), rows)


def _is_argument(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Argument)


def options_of(command: click.Command) -> list[click.Option]:
    """Return the options of a command that are for users."""
    return [p for p in command.params if isinstance(p, click.Option) and not p.hidden]


def groups(command: click.Command) -> dict[str, list[click.Option]]:
    """Return the options in groups; only the simulator has so many that it needs several."""
    simulated = behaviour.options() if command.name == "simulate" else ()
    group_of = {option.name: option.group for option in simulated}
    groups: dict[str, list[click.Option]] = {"Options": []} if options_of(command) else {}
    for option in options_of(command):
        groups.setdefault(group_of.get(option.name or "", "Options"), []).append(option)
    return groups


def _option_row(option: click.Option) -> Sequence[str]:
    names = " / ".join(", ".join(f"`{n}`" for n in group) for group in _names(option))
    meaning, default = _meaning_and_default(option)
    return names, _value(option), default, meaning


def _names(option: click.Option) -> list[list[str]]:
    return [group for group in (option.opts, option.secondary_opts) if group]


def _value(option: click.Option) -> str:
    if isinstance(option.type, click.Choice):
        return ", ".join(f"`{choice}`" for choice in option.type.choices)
    if option.is_flag:
        return ""
    kinds = {"integer": "whole number", "float": "number", "text": "text", "file": "path"}
    return kinds.get(option.type.name, option.type.name)


def _meaning_and_default(option: click.Option) -> tuple[str, str]:
    """Split "Meaning [default: …]." as help texts have it; else take click's own default."""
    help_text = (option.help or "").strip()
    if written := re.fullmatch(r"(.*?)\s*[\[(]default: (.*?)[\])](\.?)", help_text):
        return written[1] + written[3], written[2]
    default = option.to_info_dict()["default"]
    if isinstance(option.show_default, str):
        return help_text, option.show_default
    if option.is_flag:
        return help_text, "automatic" if default is None else "on" if default else "off"
    if default in (None, ""):
        return help_text, "none"
    return help_text, f"`{default}`" if isinstance(default, str) else f"{default:g}"


def own_help(command: click.Command) -> list[str]:
    """Return the help texts of a command without the parts that every command has."""
    arguments = [p.metavar or "" for p in command.params if isinstance(p, click.Argument)]
    own = (command.epilog or "").removesuffix(epilog(command.name or "", arguments))
    return [text for text in (command.help, own) if text]


def _paragraphs(command: click.Command) -> Iterator[str]:
    """Yield the help text of a command as Markdown; what is indented in it is code."""
    text = "\n\n".join(map(inspect.cleandoc, own_help(command)))
    for paragraph in re.split(r"\n\s*\n", text.replace("\b\n", "")):
        lines = paragraph.splitlines()
        code = [line.strip() for line in lines if line.startswith("  ")]
        prose = " ".join(line.strip() for line in lines if not line.startswith("  "))
        if prose:
            yield textwrap.fill(prose, 100, break_long_words=False, break_on_hyphens=False)
        if code:
            yield "\n".join(("```console", *code, "```"))


# ---- Markdown


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose columns are aligned, except for the last."""
    lines = [header, *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header) - 1)]

    def aligned(cells: Sequence[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
        return f"| {' | '.join((*padded, cells[-1]))} |"

    rule = ["-" * width for width in widths] + ["---"]
    return "\n".join(map(aligned, (lines[0], rule, *lines[1:])))


def write() -> None:
    """Rewrite the generated parts of all documents."""
    for path in DOCUMENTS:
        path.write_text(render(path.read_text()))


if __name__ == "__main__":
    write()
