#!/usr/bin/env python3
"""Makes the JSON schemas that kubeconform reads: of Kubernetes' own kinds from its OpenAPI document, and of the kinds that resource
definitions define. Strict: a field that the API does not know is refused, which the API server itself would drop in silence.

usage: schemas.py FOLDER SWAGGER.json DEFINITION.json...

Called by cargo xtask tools kubernetes-schemas, for hack/check-chart.sh. Definitions are JSON, one or more documents a file, as `kubectl -o json` prints them.
"""

import json
import os
import sys

INT_OR_STRING = {"oneOf": [{"type": "string"}, {"type": "integer"}]}
QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
# What the API server adds; and a schema of its own in each definition.
KEPT = ("type", "format", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "maxProperties",
        "required", "nullable", "uniqueItems")


def strict(schema):
    """A part of an OpenAPI document, strict and with its references in the file of all definitions."""
    if "$ref" in schema:
        return {"$ref": schema["$ref"].replace("#/definitions/", "_definitions.json#/definitions/")}
    if schema.get("format") == "int-or-string":
        return INT_OR_STRING
    made = {key: value for key, value in schema.items() if key in ("type", "enum", "required")}
    if "properties" in schema:
        made["properties"] = {name: strict(part) for name, part in schema["properties"].items()}
        made["additionalProperties"] = False
    elif isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = strict(schema["additionalProperties"])
    if "items" in schema:
        made["items"] = strict(schema["items"])
    return made


def defined(schema):
    """A part of the schema in a resource definition, strict."""
    if schema.get("x-kubernetes-int-or-string"):
        made = {key: value for key, value in schema.items() if key in ("pattern", "maxLength")}
        return {"type": ["integer", "string", "null"] if schema.get("nullable") else ["integer", "string"], **made}
    made = {key: value for key, value in schema.items() if key in KEPT and key not in ("nullable", "format")}
    if schema.get("nullable") and "type" in made:
        made["type"] = [made["type"], "null"]
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields")
    if "properties" in schema:
        made["properties"] = {name: defined(part) for name, part in schema["properties"].items()}
        if not open_ended:
            made["additionalProperties"] = False
    if isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = defined(schema["additionalProperties"])
    if "items" in schema:
        made["items"] = defined(schema["items"])
    return made


def documents(path):
    with open(path) as file:
        text, decoder, at = file.read(), json.JSONDecoder(), 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        document, at = decoder.raw_decode(text, at)
        yield from document["items"] if document.get("kind") == "List" else [document]


def main():
    folder, swagger, *definitions = sys.argv[1:]

    def write(kind, group, version, schema):
        name = f"{kind.lower()}-{group.split('.')[0] + '-' if group else ''}{version}.json"
        with open(os.path.join(folder, name), "w") as file:
            json.dump(schema, file)

    with open(swagger) as file:
        models = json.load(file)["definitions"]
    made = {name: strict(model) for name, model in models.items()}
    made[QUANTITY] = {"type": ["string", "number"]}
    with open(os.path.join(folder, "_definitions.json"), "w") as file:
        json.dump({"definitions": made}, file)
    for name, model in models.items():
        kinds = model.get("x-kubernetes-group-version-kind", [])
        if len(kinds) == 1:
            write(kinds[0]["kind"], kinds[0]["group"], kinds[0]["version"], {"$ref": f"_definitions.json#/definitions/{name}"})
    for crd in (crd for path in definitions for crd in documents(path)):
        for version in crd["spec"]["versions"]:
            schema = defined(version["schema"]["openAPIV3Schema"])
            for field in ("apiVersion", "kind"):
                schema["properties"][field] = {"type": "string"}
            schema["properties"]["metadata"] = {"$ref": "_definitions.json#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
            write(crd["spec"]["names"]["kind"], crd["spec"]["group"], version["name"], schema)


if __name__ == "__main__":
    main()
