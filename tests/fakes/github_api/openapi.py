"""GitHub's OpenAPI description as a route table, as compiled validators and as a source of sample objects."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from jsonschema import Draft202012Validator, FormatChecker, ValidationError, validators

from tests.fakes.github_api.wire import Json

__all__ = ["SCOPES", "Description", "Operation", "description"]

SCOPES = {
    "repository": "/repos/{owner}/{repo}",
    "organization": "/orgs/{org}",
    "enterprise": "/enterprises/{enterprise}",
}
_FILE = Path(__file__).with_name("openapi.json")
_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_CACHE_LIMIT = 200_000
_seen: set[tuple[int, bytes]] = set()


def _date_time(value: object) -> bool:
    return not isinstance(value, str) or bool(_DATE_TIME.fullmatch(value))


def _items(validator: Any, schema: Any, instance: Any, _parent: Any) -> Iterator[ValidationError]:
    """`items`, but an element that passed before is not judged again: lists of 100 runners stay cheap."""
    if not isinstance(instance, list):
        return
    for index, element in enumerate(instance):
        key = (id(schema), msgspec.json.encode(element))
        if key in _seen:
            continue
        failed = False
        for error in validator.descend(element, schema, path=index):
            failed = True
            yield error
        if not failed and len(_seen) < _CACHE_LIMIT:
            _seen.add(key)


_FORMATS = FormatChecker(formats=())
_FORMATS.checks("date-time")(_date_time)
_extend: Any = validators.extend
_Validator = _extend(Draft202012Validator, {"items": _items})


def _nullable(schema: Json) -> Json:
    """OpenAPI 3.0's ``nullable`` in the words of JSON Schema."""
    clean = {
        key: value for key, value in schema.items() if key not in ("nullable", "example", "discriminator")
    }
    if not schema.get("nullable"):
        return clean
    if isinstance(clean.get("type"), str):
        clean["type"] = [clean["type"], "null"]
        if "enum" in clean:
            clean["enum"] = [*clean["enum"], None]
        return clean
    return {"anyOf": [clean, {"type": "null"}]}


@dataclass
class Operation:
    """One operation: where it is, what it takes, what it may answer."""

    id: str
    method: str
    template: str
    pattern: re.Pattern[str]
    scope: str | None
    parameters: dict[tuple[str, str], Json]
    required: frozenset[tuple[str, str]]
    body: Json | None
    body_required: bool
    answers: dict[str, Json | None]
    compiled: dict[str, Any] = field(default_factory=dict)

    def validator(self, key: str, schema: Json) -> Any:
        """The compiled validator of one part, made on first use."""
        if key not in self.compiled:
            self.compiled[key] = _Validator(schema, format_checker=_FORMATS)
        return self.compiled[key]

    def check_request(self, *, params: Mapping[str, str], query: Mapping[str, str], body: Any) -> list[str]:
        """What is wrong with a request, one line each. ``body`` is None when there was none."""
        problems = [
            f"query parameter {name!r} is not known here"
            for name in query
            if ("query", name) not in self.parameters
        ]
        for (where, name), schema in self.parameters.items():
            value = (params if where == "path" else query).get(name)
            if value is None:
                if (where, name) in self.required:
                    problems.append(f"{where} parameter {name!r} is missing")
                continue
            problems += self._check(f"{where}.{name}", schema, _convert(value, schema))
        return problems + self._check_body(body)

    def _check_body(self, body: Any) -> list[str]:
        if body is None:
            return ["a body is required"] if self.body_required else []
        if self.body is None:
            return [] if body == {} else ["no body is taken here"]
        problems = self._check("body", self.body, body)
        if isinstance(body, dict):
            known = self.body.get("properties", {})
            problems += [f"body.{name} is not known here" for name in body if known and name not in known]
        return problems

    def check_answer(self, status: int, body: Any) -> list[str]:
        """What is wrong with an answer of ours. A 2xx or 3xx must be declared; errors may be `default`."""
        key = str(status)
        if key not in self.answers:
            if status < 400:
                return [f"status {status} is not declared for {self.id}"]
            key = "default"
        schema = self.answers.get(key)
        if schema is None:
            return ["a body where none is declared"] if body is not None and status < 300 else []
        return self._check(f"answer {status}", schema, body, key=f"answer.{key}")

    def _check(self, where: str, schema: Json, value: Any, *, key: str = "") -> list[str]:
        errors: Iterable[ValidationError] = self.validator(key or where, schema).iter_errors(value)
        return [f"{where}{_pointer(error)}: {error.message[:200]}" for error in errors]

    def lists_errors_as_text(self) -> bool:
        """Whether this operation's 422 carries ``errors`` as a list of strings."""
        schema = self.answers.get("422") or {}
        items = schema.get("properties", {}).get("errors", {}).get("items", {})
        return bool(items.get("type") == "string")


def _pointer(error: ValidationError) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)


def _convert(value: str, schema: Json) -> Any:
    kind = schema.get("type")
    if kind in ("integer", "number") and re.fullmatch(r"-?\d+", value):
        return int(value)
    if kind == "boolean" and value in ("true", "false"):
        return value == "true"
    return value


class Description:
    """The whole description, references resolved."""

    def __init__(self, document: Json) -> None:
        self._document = document
        self._resolved: dict[str, Any] = {}
        self.schemas = {
            name: self._resolve({"$ref": f"#/components/schemas/{name}"})
            for name in document["components"]["schemas"]
        }
        operations = [
            self._operation(method, template, entry)
            for template, methods in document["paths"].items()
            for method, entry in methods.items()
        ]
        # Literal paths before those with parameters: /runners/downloads is not a runner's id.
        self.operations = sorted(operations, key=lambda operation: operation.template.count("{"))

    def match(self, method: str, path: str) -> tuple[Operation, dict[str, str]] | None:
        """The operation of a request and its path parameters (still escaped), or None."""
        for operation in self.operations:
            if operation.method == method and (found := operation.pattern.fullmatch(path)):
                return operation, found.groupdict()
        return None

    def sample(self, schema: str, /, **known: Any) -> Json:
        """A smallest valid object of a named schema, with what is known laid over it."""
        return {**_sample_object(self.schemas[schema]), **known}

    def _resolve(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self._resolve(element) for element in node]
        if not isinstance(node, dict):
            return node
        reference = node.get("$ref")
        if not isinstance(reference, str):
            return _nullable({key: self._resolve(value) for key, value in node.items()})
        if reference not in self._resolved:
            target: Any = self._document
            for part in reference.removeprefix("#/").split("/"):
                target = target[part]
            self._resolved[reference] = self._resolve(target)
        return self._resolved[reference]

    def _operation(self, method: str, template: str, entry: Json) -> Operation:
        parameters = [self._resolve(parameter) for parameter in entry.get("parameters", [])]
        body = self._resolve(entry.get("requestBody", {}))
        answers = {status: _content(self._resolve(answer)) for status, answer in entry["responses"].items()}
        names = re.sub(
            r"\{(\w+)\}", lambda found: f"(?P<{found[1]}>{'.+' if found[1] == 'path' else '[^/]+'})", template
        )
        scope = next((kind for kind, base in SCOPES.items() if template.startswith(base)), None)
        return Operation(
            id=entry["operationId"],
            method=method.upper(),
            template=template,
            pattern=re.compile(names),
            scope=scope,
            parameters={(item["in"], item["name"]): item["schema"] for item in parameters},
            required=frozenset((item["in"], item["name"]) for item in parameters if item.get("required")),
            body=_content(body),
            body_required=bool(body.get("required")),
            answers=answers,
        )


def _content(part: Json) -> Json | None:
    schema: Json | None = part.get("content", {}).get("application/json", {}).get("schema")
    return schema


def _sample(schema: Json, name: str) -> Any:
    for key in ("allOf", "anyOf", "oneOf"):
        if key in schema:
            return _sample(schema[key][0], name)
    if "default" in schema:
        return schema["default"]
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if isinstance(kind, list):
        return None
    if kind == "object":
        return _sample_object(schema)
    if kind == "string":
        return _sample_text(schema, name)
    return {"integer": 0, "number": 0, "boolean": False, "array": []}[kind]


def _sample_object(schema: Json) -> Json:
    properties = schema.get("properties", {})
    return {name: _sample(properties.get(name, {}), name) for name in schema.get("required", [])}


def _sample_text(schema: Json, name: str) -> str:
    if schema.get("format") == "date-time":
        return "2026-01-01T00:00:00Z"
    return f"https://github.example/{name}" if schema.get("format") == "uri" else f"{name}"


@functools.cache
def description() -> Description:
    """The description beside this file, read once for a process."""
    return Description(json.loads(_FILE.read_bytes()))
