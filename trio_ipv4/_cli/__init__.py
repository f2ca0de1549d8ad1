"""The command line. It imports only the public package, like any stranger.

A command is a module with a function `command`, or with an `app` of several, and a row in `COMMANDS`. Only the one that
is run is imported.
"""

# The layers, from the top; each imports only what is below it, and the public package:
#
#   __init__       the commands, and how errors are told
#   demo, doctor, groups, interfaces, lab, listen, ping, send, watch
#                  a module, or a folder, for each command: they know nothing of each other
#   foreign        a socket of another process, through a duplicate of its descriptor
#   processes      which process holds which socket, by /proc
#   pidfd          processes by a descriptor
#   diag           the sockets of everybody, by sock_diag
#   route          which way the kernel's routes lead
#   packet_socket  what comes in and goes out on the wire
#   kernel_tables  the kernel's tables of memberships and of UDP, read from /proc/net
#   interface_facts        the facts of an interface that records have
#   capture        files of packets
#   netlink        messages of netlink(7), and questions to the kernel
#   probe          the payload that `send` writes, and by which `listen` finds out what was lost
#   libc           the C library: the calls that Python lacks
#   merge          what an interface hears, from what its sockets want
#   arguments      what people write: endpoints, durations, rates
#   ends           how a command ends, and its exit status
#   output         what it has to show: records, as text for people or as JSON lines

from __future__ import annotations

import os
import platform
import sys
import traceback
import warnings
from typing import Annotated, Final, Literal, TypeVar

from cyclopts import App, CycloptsError, Parameter

import trio_ipv4
from trio_ipv4 import UnsupportedError
from trio_ipv4._cli import lab
from trio_ipv4._cli.ends import Status
from trio_ipv4._cli.output import Terminal, prepare_output, write

E = TypeVar("E", bound=Exception)

COMMANDS: Final = {
    # In the order of the help.
    "listen": "trio_ipv4._cli.listen:command",
    "send": "trio_ipv4._cli.send:app",
    "ping": "trio_ipv4._cli.ping:app",
    "groups": "trio_ipv4._cli.groups:app",
    "watch": "trio_ipv4._cli.watch:command",
    "doctor": "trio_ipv4._cli.doctor:app",
    "interfaces": "trio_ipv4._cli.interfaces:command",
    "lab": "trio_ipv4._cli.lab:app",
    "demo": "trio_ipv4._cli.demo:command",
}
_HELP: Final = """\
Send, receive and diagnose IPv4 multicast.

Each command explains itself: trio-ipv4 COMMAND --help.

    trio-ipv4 listen 239.1.2.3:5000   who sends, and what is lost?
    trio-ipv4 send 239.1.2.3:5000     does it arrive there?
    trio-ipv4 ping 198.18.0.2         how far is it, and does multicast get here?
    trio-ipv4 groups                  who on this host has joined what?
    trio-ipv4 watch                   who on this link has, and who asks?
    trio-ipv4 doctor 239.1.2.3:5000   why does it not arrive here?
"""


def _version() -> str:
    """Return what a report of an error needs: the version, how it calls the kernel, the Python, the platform."""
    how = trio_ipv4.implementation()
    threads = " free-threaded" if "free-threading" in sys.version else ""
    python = f"{platform.python_implementation()} {platform.python_version()}{threads}"
    lines = [f"trio-ipv4 {trio_ipv4.__version__}, {how.way}", f"{python}, {platform.platform()}", how.reason]
    return "\n".join(line for line in lines if line is not None)


app = App(
    name="trio-ipv4",
    help=_HELP,
    version=_version,
    version_format="plaintext",
    help_format="markdown",
    console=Terminal(),
    suppress_keyboard_interrupt=False,  # It is told below.
    # A switch has no opposite, and what is left out is told in the words.
    default_parameter=Parameter(negative="", show_default=False),
)
for _place, (_name, _path) in enumerate(COMMANDS.items()):
    app.command(_path, name=_name, sort_key=_place)


@app.command(name="completion", sort_key=len(COMMANDS))
def print_completion(shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(name="SHELL")], /) -> int:
    """Print a script by which a shell completes commands, options and interfaces.

    For bash:

        D=~/.local/share/bash-completion/completions
        mkdir -p $D
        trio-ipv4 completion bash > $D/trio-ipv4

    For zsh, a file _trio_ipv4 in a directory of $fpath; for fish,
    ~/.config/fish/completions/trio-ipv4.fish.

    Args:
        shell: Which shell reads it.
    """
    write(app.generate_completion(shell=shell))
    return Status.DONE


def run() -> None:
    """Run the command line, and exit."""
    prepare_output()
    warnings.showwarning = _tell_warning
    status: int | None = Status.FAILED
    words = lab.divide(sys.argv[1:])
    try:
        status = _call(words)
    except* CycloptsError as errors:
        status = Status.USAGE
        for error in _leaves(errors):
            _tell(str(error), f"try '{' '.join(['trio-ipv4', *(error.command_chain or ()), '--help'])}'")
    except* KeyboardInterrupt:
        # Which may have come in a group, from a nursery. Every membership was left on the way here.
        status = Status.INTERRUPTED
        sys.stderr.write("Interrupted.\n")
    except* BrokenPipeError:
        status = Status.NOBODY_READS
    except* (OSError, UnsupportedError) as errors:
        _tell(*map(_sentence, _leaves(errors)))
    except* Exception as errors:
        # Python would exit with 1, which commands give a meaning.
        traceback.print_exception(errors)
        _tell("this is a fault in trio-ipv4. Please report it, with the lines above")
    sys.exit(status or Status.DONE)


def _call(words: list[str]) -> int | None:
    try:
        if not words or words[0] in app.help_flags:
            _import_all()
        status: int | None = app(words, exit_on_error=False, print_error=False, result_action="return_value")
    except KeyboardInterrupt as interrupt:
        # PyPy's `except*` makes an ExceptionGroup of it, and fails, since it is no Exception.
        raise BaseExceptionGroup("Ctrl-C", [interrupt]) from None
    return status


def _import_all() -> None:
    """Import every command: the list of commands has what each says of itself."""
    for name in COMMANDS:
        app[name]


def _tell(*sentences: str) -> None:
    sys.stderr.write("".join(f"trio-ipv4: {sentence}\n" for sentence in sentences))


def _sentence(error: Exception) -> str:
    """Return what an error says. The library's own sentences need no number before them."""
    explained = isinstance(error, OSError) and error.strerror and error.strerror != os.strerror(error.errno or 0)
    return str(error.strerror) if isinstance(error, OSError) and explained else str(error)


def _tell_warning(message: Warning | str, *_: object, **__: object) -> None:
    _tell(f"warning: {message}")


def _leaves(group: BaseExceptionGroup[E]) -> list[E]:
    """Return the errors in a group, which may hold groups: nurseries make them."""
    found: list[E] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
