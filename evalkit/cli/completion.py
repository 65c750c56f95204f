"""`evalkit completion`: a script for the shell, made from the parser: commands, options and their values, tasks, models and tables."""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from functools import partial

SHELLS = ("bash", "zsh")
ENGINES = ("native", "llama_cpp", "lm_eval:hf", "lm_eval:vllm", "openai:", "replay:")
# bash splits words at : and @, and takes of a reply only what comes after the last of them; zsh does not split there
SCRIPT = """\
_evalkit() {{
    local line="${{COMP_LINE:0:COMP_POINT}}" word current="${{COMP_WORDS[COMP_CWORD]}}" before known reply head="" last
    word="${{line##* }}"; line="${{line%"$word"}}"; line="${{line%"${{line##*[! ]}}"}}"; before="${{line##* }}"
    case "$current" in :|@|=) current="";; esac
    case "$line" in
        *" "*) line="${{line#* }}"; known="$(_evalkit_values "${{line%% *}}" "$before" "$word")";;
        *) known="{commands} --help --version";;
    esac
    last="${{word##*,}}"; head="${{word%"$last"}}"
    COMPREPLY=()
    for reply in $(compgen -W "$known" -- "$last"); do
        reply="$head$reply"
        COMPREPLY+=("${{reply#"${{word%"$current"}}"}}")
    done
}}
_evalkit_values() {{
    case "$1 $2" in
{values}
    esac
    case "$1" in
{options}
    esac
}}
complete -o default -F _evalkit evalkit
"""
ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    completion = commands.add_parser(
        "completion",
        help="print a script that completes commands, options, tasks, models and tables in bash or zsh",
        description="Print a shell's completion script. It names the tasks that are installed now; run it again after an update.",
        examples=(
            "evalkit completion bash > ~/.local/share/bash-completion/completions/evalkit",
            "evalkit completion zsh >> ~/.zshrc",
        ),
    )
    completion.add_argument("shell", choices=SHELLS, help="the shell")
    completion.set_defaults(command=partial(_completion, commands.choices))


def _completion(parsers: Mapping[str, argparse.ArgumentParser], arguments: argparse.Namespace) -> None:
    print((ZSH if arguments.shell == "zsh" else "") + script(parsers), end="")


def script(parsers: Mapping[str, argparse.ArgumentParser]) -> str:
    """For bash; zsh runs it too."""
    names = _names(parsers)
    values, options = [], []
    for command, parser in parsers.items():
        flags = sorted(flag for action in parser._actions for flag in action.option_strings if flag.startswith("--"))
        positional: list[str] = []
        for action in parser._actions:
            known = _known(action, names)
            if not action.option_strings:
                positional += known
            elif known or action.nargs != 0:  # what takes another value is left to the shell: a file
                places = "|".join(f'"{command} {flag}"' for flag in action.option_strings)
                values.append(f"{places}) echo {_quoted(known)}; return;;")
        options.append(f'{command}) case "$3" in -*) echo {_quoted(flags)};; *) echo {_quoted(positional)};; esac;;')
    indented = ["\n".join(f"        {line}" for line in lines) for lines in (values, options)]
    return SCRIPT.format(commands=" ".join(parsers), values=indented[0], options=indented[1])


def _names(parsers: Mapping[str, argparse.ArgumentParser]) -> Mapping[str, Sequence[str]]:
    """What an option or argument may be, by its metavar."""
    from evalkit.lm.models import MODELS
    from evalkit.report.published import table_names
    from evalkit.tasks.registry import task_classes

    tasks = [name for task, cls in task_classes().items() for name in (task, *(str(protocol) for protocol in cls.protocols.values()))]
    return {
        "T[,T]": tasks,
        "TASK": tasks,
        "SPEC": list(MODELS),
        "MODEL": list(MODELS),
        "TABLE": table_names(),
        "TABLE[,TABLE]": ["all", *table_names()],
        "ENGINE": ENGINES,
        "DATA": ("hub", "sample"),
        "COMMAND": list(parsers),
    }


def _known(action: argparse.Action, names: Mapping[str, Sequence[str]]) -> list[str]:
    if action.choices is not None:
        return [str(choice) for choice in action.choices]
    return list(names.get(str(action.metavar), ()))


def _quoted(words: Sequence[str]) -> str:
    return shlex.quote(" ".join(words))
