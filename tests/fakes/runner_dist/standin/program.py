"""Entry point of ``bin/Runner.Listener``."""

from __future__ import annotations

import os
import subprocess
import sys

from .context import SUCCESS, TERMINATED, Context, RunnerError, abort
from .options import Options

_HELP = """
Commands:
 ./config.sh         Configures the runner
 ./config.sh remove  Unconfigures the runner
 ./run.sh            Runs the runner interactively. Does not require any options.

Options: --help --version --commit --check
Configure: --unattended --url --token --pat --name --runnergroup --labels --no-default-labels --work --replace
           --disableupdate --ephemeral
Remove: --token --pat --local
Run: --jitconfig --startuptype --once
"""


def main(words: list[str]) -> int:
    """Run one command and return its exit code."""
    context = Context("Runner")
    context.load_env_file()
    _check_libraries(context)
    context.open_log()
    try:
        context.check_directories()
        code = _execute(context, Options(words))
    except RunnerError as error:
        context.complain(str(error))
        code = error.code
    except KeyboardInterrupt:
        context.say("Exiting...")
        code = TERMINATED
    context.trace(f"Runner execution has finished with return code {code}")
    sys.stdout.flush()
    # Not sys.exit: a poll under way in its thread must not hold the process.
    os._exit(code)


def _execute(context: Context, options: Options) -> int:
    if options.unknown:
        command = f" for command {options.command}" if options.command else ""
        context.complain(
            f"Unrecognized command-line input arguments{command}: '{', '.join(options.unknown)}'."
            " For usage refer to: .\\config.cmd --help or ./config.sh --help"
        )
    for name, text in (("help", _HELP), ("version", context.version), ("commit", context.commit)):
        if options.flag(name):
            context.say(text)
            return SUCCESS
    if options.flag("check"):
        context.say("Please check the logs in _diag for details.")
        return SUCCESS
    if options.command in ("configure", "remove"):
        from . import configure  # late, as every import costs start-up time

        getattr(configure, options.command)(context, options)
        return SUCCESS
    if options.command == "warmup":
        return SUCCESS
    from .listener import Listener

    return Listener(context, options).run()


def _check_libraries(context: Context) -> None:
    """Abort without ICU, as .NET does, where the tarball was built to do so."""
    if not context.needs_icu or os.environ.get("DOTNET_SYSTEM_GLOBALIZATION_INVARIANT") in ("1", "true"):
        return
    ldconfig = "/sbin/ldconfig" if os.path.exists("/sbin/ldconfig") else "ldconfig"
    listed = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=False, timeout=10).stdout
    if "libicu" not in listed:
        abort("Couldn't find a valid ICU package installed on the system.")
