"""``configure`` and ``remove``: what creates and ends a registration."""

from __future__ import annotations

import os
import platform
import sys
import time
import uuid
from typing import Any
from urllib.parse import urlsplit

from .context import Context, RunnerError, time_scale
from .options import Options
from .settings import CREDENTIALS, KEY, RUNNER, Settings
from .wire import Reply, Service, WireError


def configure(context: Context, options: Options) -> None:
    """Register with the service and write the local files. Raises RunnerError with the real texts."""
    settings = Settings(context.root)
    if options.flag("generateserviceconfig") and settings.is_configured():
        _write_service_script(context)
        return
    if settings.is_configured():
        raise RunnerError(
            "Cannot configure the runner because it is already configured. To reconfigure the runner, run"
            " 'config.cmd remove' or './config.sh remove' first."
        )
    _section(context, "Authentication")
    url = _required(options, "url", question="What is the URL of your repository?").rstrip("/")
    token = _token(options, url, "registration")
    granted = _authorise(url, token, "register")
    context.say()
    context.say("√ Connected to GitHub")
    _section(context, "Runner Registration")
    request = _registration(context, options)
    agent = _add_agent(context, granted, request)
    context.say("√ Runner connection is good")
    _section(context, "Runner settings")
    runner = _runner_file(url, granted["url"], agent, request, options)
    settings.save(runner, client_id=str(uuid.uuid4()), secret=agent["secret"])
    context.say()
    context.say("√ Settings Saved.")
    context.say()
    _write_service_script(context)


def remove(context: Context, options: Options) -> None:
    """Delete the record (unless ``--local``) and the local files."""
    settings = Settings(context.root)
    if options.flag("local"):
        settings.delete()
        context.say("√ Removed .credentials")
        context.say("√ Removed .runner")
        return
    _section(context, "Runner removal")
    if settings.is_service():
        raise RunnerError("Failed: Removing service\nUninstall service first")
    if settings.is_configured() and settings.has_credentials():
        _delete_record(context, options, settings.load())
    else:
        context.say(
            "Cannot connect to server, because config files are missing."
            " Skipping removing runner from the server."
        )
    for name, present, files in (
        (CREDENTIALS, settings.has_credentials(), (CREDENTIALS, KEY, ".credentials_migrated")),
        (RUNNER, settings.is_configured(), (RUNNER, ".runner_migrated")),
    ):
        if present:
            settings.delete(*files)
            context.say(f"√ Removed {name}")
        else:
            context.say(f"Does not exist. Skipping Removing {name}")


def _delete_record(context: Context, options: Options, runner: dict[str, Any]) -> None:
    url = str(runner.get("githuburl", ""))
    if not url:
        raise RunnerError("Failed: Removing runner from the server\nThe runner's configuration has no URL.")
    granted = _authorise(url, _token(options, url, "remove"), "remove")
    service = Service(granted["url"], authorization=f"Bearer {granted['token']}")
    reply = _call(service, "DELETE", f"/agents/{runner['agentid']}")
    if reply.status == 404:
        context.say("Does not exist. Skipping Removing runner from the server")
    elif reply.status >= 300:
        raise RunnerError(f"Failed: Removing runner from the server\n{reply.message}")
    else:
        context.say()
        context.say("√ Runner removed successfully")


def _registration(context: Context, options: Options) -> dict[str, Any]:
    """The request body that describes this runner."""
    labels: list[str] = []
    for label in (part.strip() for part in options.value("labels").split(",")):
        if label and label.lower() not in {known.lower() for known in labels}:
            labels.append(label)
    for label in labels:
        if len(label) > 256:
            raise RunnerError(f"Invalid labels provided: '{label}' is longer than 256 characters.")
    if options.flag("no-default-labels") and not labels:
        raise RunnerError("'--no-default-labels' needs '--labels'.")
    return {
        "name": options.value("name") or platform.node() or "myrunner",
        "labels": labels,
        "group": options.value("runnergroup") or None,
        "replace": options.flag("replace"),
        "ephemeral": options.flag("ephemeral"),
        "disable_update": options.flag("disableupdate"),
        "version": context.version,
        "no_default_labels": options.flag("no-default-labels"),
        "os": "Linux",
        "architecture": context.architecture,
    }


def _add_agent(context: Context, granted: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    service = Service(granted["url"], authorization=f"Bearer {granted['token']}")
    reply = _call(service, "POST", "/agents", request)
    if reply.status == 409:
        context.say("A runner exists with the same name")
        raise RunnerError(f"A runner exists with the same name {request['name']}.")
    if reply.status == 404 and request["group"]:
        raise RunnerError(f"Could not find any self-hosted runner group named \"{request['group']}\".")
    if reply.status >= 300:
        raise RunnerError(reply.message)
    replaced = bool(reply.body.get("replaced"))
    context.say("√ Successfully replaced the runner" if replaced else "√ Runner successfully added")
    return reply.body


def _runner_file(
    url: str, server_url: str, agent: dict[str, Any], request: dict[str, Any], options: Options
) -> dict[str, Any]:
    return {
        "agentId": agent["id"],
        "agentName": agent.get("name", request["name"]),
        "poolId": agent.get("pool_id", 1),
        "poolName": agent.get("group") or request["group"] or "Default",
        "disableUpdate": request["disable_update"],
        "ephemeral": request["ephemeral"],
        "serverUrl": server_url,
        "gitHubUrl": url,
        "workFolder": options.value("work") or "_work",
        "useV2Flow": True,
        "serverUrlV2": server_url,
        "monitorSocketAddress": options.value("monitorsocketaddress"),
    }


def _api(url: str) -> str:
    """The REST address that belongs to a registration URL."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    if host == "github.com" or host.endswith(".ghe.com"):
        return f"{parts.scheme}://api.{host}"
    return f"{parts.scheme}://{parts.netloc}/api/v3"


def _scope_path(url: str) -> str:
    words = [word for word in urlsplit(url).path.split("/") if word]
    if len(words) == 2 and words[0].lower() == "enterprises":
        return f"/enterprises/{words[1]}"
    return f"/repos/{words[0]}/{words[1]}" if len(words) == 2 else f"/orgs/{'/'.join(words)}"


def _token(options: Options, url: str, kind: str) -> str:
    """The registration or remove token; with ``--pat`` the runner asks for one itself."""
    pat = options.value("pat")
    if not pat:
        return _required(options, "token", question=f"What is your runner {kind} token?")
    service = Service(_api(url), authorization=f"Bearer {pat}")
    reply = _call(service, "POST", f"{_scope_path(url)}/actions/runners/{kind}-token")
    if reply.status >= 300:
        raise RunnerError(reply.message)
    return str(reply.body["token"])


def _authorise(url: str, token: str, event: str) -> dict[str, Any]:
    """Trade the token for the service's address and a set-up token: three attempts, 404 is final."""
    service = Service(_api(url), authorization=f"RemoteAuth {token}")
    failure = ""
    for attempt in range(3):
        if attempt:
            time.sleep(5 / time_scale())
        try:
            reply = service.call("POST", "/actions/runner-registration", {"url": url, "runner_event": event})
        except WireError as error:
            failure = str(error)
            continue
        if reply.status < 300:
            return reply.body
        name = {404: "NotFound", 401: "Unauthorized", 403: "Forbidden"}.get(reply.status, str(reply.status))
        where = f"POST {_api(url)}/actions/runner-registration"
        failure = f"Http response code: {name} from '{where}'\n{reply.message}"
        if reply.status == 404:
            break
    raise RunnerError(failure)


def _call(service: Service, method: str, path: str, body: object = None) -> Reply:
    try:
        return service.call(method, path, body)
    except WireError as error:
        raise RunnerError(str(error)) from error
    finally:
        service.close()


def _required(options: Options, name: str, *, question: str) -> str:
    """The option's value, or an answer from the terminal; unattended there is nobody to ask."""
    value = options.value(name)
    if value:
        return value
    if options.flag("unattended") or not sys.stdin.isatty():
        raise RunnerError(f"Invalid configuration provided for {name}. Terminating unattended configuration.")
    return input(f"{question} ").strip()


def _section(context: Context, title: str) -> None:
    context.say()
    context.say(f"# {title}")
    context.say()


def _write_service_script(context: Context) -> None:
    """``svc.sh`` appears only after a registration."""
    template = context.bin / "systemd.svc.sh.template"
    target = context.root / "svc.sh"
    try:
        target.write_text(template.read_text(encoding="utf-8"), encoding="utf-8")
        os.chmod(target, 0o755)
    except OSError as error:
        raise RunnerError(f"Access to the path '{error.filename}' is denied.") from error
