//! Renders the reference of the custom resources in Markdown from their schema. Called by a test
//! that compares it with `docs/reference/api.md`.

use std::fmt::Write as _;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

use super::definitions;

/// Renders `docs/reference/api.md`.
pub fn api_markdown() -> String {
    let mut out = "# The custom resources\n\nGenerated from the code; do not edit. Fields that are not marked as required are optional. \
        Samples are in [config/samples](../../config/samples); conditions are described in [conditions.md](conditions.md).\n"
        .to_owned();
    for definition in definitions() {
        write_resource(&mut out, &definition);
    }
    out
}

fn write_resource(out: &mut String, definition: &CustomResourceDefinition) {
    let names = &definition.spec.names;
    let short = names
        .short_names
        .iter()
        .flatten()
        .map(|name| format!(", `{name}`"))
        .collect::<String>();
    for version in &definition.spec.versions {
        let Some(schema) = version
            .schema
            .as_ref()
            .and_then(|schema| schema.open_api_v3_schema.as_ref())
        else {
            continue;
        };
        let about = schema.description.as_deref().unwrap_or_default();
        let _ = write!(
            out,
            "\n## {}\n\n`{}/{}`, `kubectl get {}`{short}\n\n{about}\n",
            names.kind, definition.spec.group, version.name, names.plural
        );
        write_rules(out, schema);
        for part in ["spec", "status"] {
            if let Some(schema) = schema
                .properties
                .as_ref()
                .and_then(|properties| properties.get(part))
            {
                let _ = writeln!(
                    out,
                    "\n### {} {part}\n\n| field | type | description |\n|---|---|---|",
                    names.kind
                );
                write_fields(out, "", schema);
            }
        }
    }
}

/// Lists every validation rule of the schema.
fn write_rules(out: &mut String, schema: &JSONSchemaProps) {
    let mut messages = Vec::new();
    collect_rules(schema, "", &mut messages);
    if !messages.is_empty() {
        out.push_str("\nThe API server enforces these rules:\n\n");
        for message in messages {
            let _ = writeln!(out, "- {message}");
        }
    }
}

fn collect_rules(schema: &JSONSchemaProps, path: &str, messages: &mut Vec<String>) {
    let rules = schema.x_kubernetes_validations.iter().flatten();
    let place = if path.is_empty() {
        String::new()
    } else {
        format!("`{path}`: ")
    };
    messages.extend(rules.filter_map(|rule| Some(format!("{place}{}", rule.message.as_ref()?))));
    for (name, property) in schema.properties.iter().flatten() {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        collect_rules(property, &path, messages);
    }
}

fn write_fields(out: &mut String, path: &str, schema: &JSONSchemaProps) {
    for (name, property) in schema.properties.iter().flatten() {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        let required = schema.required.iter().flatten().any(|required| required == name);
        let _ = writeln!(
            out,
            "| `{path}` | {}{} | {} |",
            type_name(property),
            if required { ", required" } else { "" },
            describe_field(property)
        );
        // Conditions are a type of Kubernetes.
        if name == "conditions" {
            continue;
        }
        write_fields(out, &path, property);
        if let Some(JSONSchemaPropsOrArray::Schema(items)) = &property.items {
            write_fields(out, &format!("{path}[]"), items);
        }
    }
}

fn type_name(schema: &JSONSchemaProps) -> String {
    if schema.x_kubernetes_int_or_string == Some(true) {
        return "number or text".to_owned();
    }
    let inner = |schema: &JSONSchemaProps| type_name(schema);
    match (
        schema.type_.as_deref(),
        &schema.items,
        &schema.additional_properties,
    ) {
        (_, Some(JSONSchemaPropsOrArray::Schema(items)), _) => format!("list of {}", inner(items)),
        (_, _, Some(JSONSchemaPropsOrBool::Schema(values))) => format!("map to {}", inner(values)),
        (Some("string"), ..) => "text".to_owned(),
        (Some("integer" | "number"), ..) => "number".to_owned(),
        (Some("boolean"), ..) => "true or false".to_owned(),
        (Some(other), ..) => other.to_owned(),
        (None, ..) => "anything".to_owned(),
    }
}

fn describe_field(schema: &JSONSchemaProps) -> String {
    let mut about = schema
        .description
        .clone()
        .unwrap_or_default()
        .replace('\n', " ")
        .replace('|', "\\|");
    let values: Vec<String> = schema
        .enum_
        .iter()
        .flatten()
        .map(|value| format!("`{}`", value.0.as_str().unwrap_or_default()))
        .collect();
    if !values.is_empty() {
        let _ = write!(about, " One of {}.", values.join(", "));
    }
    match (schema.minimum, schema.maximum) {
        (Some(least), Some(most)) => {
            let _ = write!(about, " {least} to {most}.");
        }
        (Some(least), None) => {
            let _ = write!(about, " At least {least}.");
        }
        _ => {}
    }
    if let Some(default) = &schema.default
        && (default.0.is_string() || default.0.is_boolean() || default.0.is_number())
    {
        let _ = write!(about, " Default: `{}`.", default.0.to_string().trim_matches('"'));
    }
    about.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use streamhouse_testkit::assert_current;

    use super::*;
    use crate::crd;

    #[test]
    fn the_references_are_what_the_code_says() {
        assert_current("docs/reference/api.md", &api_markdown()).unwrap();
        assert_current("docs/reference/conditions.md", &crd::reasons_markdown()).unwrap();
    }

    #[test]
    fn the_definitions_are_what_the_code_says() {
        for (file, text) in crd::definition_documents().unwrap() {
            assert_current(&format!("crds/{file}"), &text).unwrap();
        }
    }

    #[test]
    fn every_field_says_what_it_is() {
        for line in api_markdown().lines().filter(|line| line.starts_with("| `")) {
            assert!(!line.ends_with("|  |"), "{line}");
        }
    }
}
