//! Writes the Rust code of a definition: a struct for each message, and how it is read and written.

use std::fmt::{Error, Write};

use super::parse::{ApiDefinition, FieldDefinition, FieldType, StructDefinition, VersionRange, struct_name};

/// Writes the messages of an API.
pub(super) fn messages(code: &mut String, api: &ApiDefinition) -> Result<(), Error> {
    for definition in &api.structs {
        structure(code, api, definition)?;
        let default = definition.fields.iter().any(|field| field.default_value().1);
        if default {
            default_impl(code, definition)?;
        }
        writeln!(code, "impl KafkaMessage for {} {{", definition.name)?;
        decode(code, api, definition)?;
        encode(code, api, definition)?;
        outcome(code, api, definition)?;
        writeln!(code, "}}")?;
    }
    let name = &api.name;
    writeln!(
        code,
        "impl KafkaRequest for {name}Request {{ const KEY: ApiKey = ApiKey::{name}; type Response = {name}Response; }}"
    )
}

/// Writes the enumeration of all APIs.
pub(super) fn keys(code: &mut String, apis: &[ApiDefinition]) -> Result<(), Error> {
    writeln!(code, "/// An API of the Kafka protocol.")?;
    writeln!(
        code,
        "#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]"
    )?;
    writeln!(code, "pub enum ApiKey {{")?;
    for api in apis {
        writeln!(code, "/// `{}`, versions {}.", api.name, described(api.request))?;
        writeln!(code, "{} = {},", api.name, api.key)?;
    }
    writeln!(code, "}}\nimpl ApiKey {{")?;
    writeln!(code, "/// All APIs by their number.\npub const ALL: &[Self] = &[")?;
    for api in apis {
        write!(code, "Self::{}, ", api.name)?;
    }
    writeln!(code, "];")?;
    writeln!(
        code,
        "/// Returns the name of the API.\npub const fn name(self) -> &'static str {{ match self {{"
    )?;
    for api in apis {
        writeln!(code, "Self::{0} => \"{0}\",", api.name)?;
    }
    writeln!(code, "}} }}")?;
    let versions = "/// Returns the first and the last version of the request that is defined.";
    writeln!(
        code,
        "{versions}\npub const fn versions(self) -> (i16, i16) {{ match self {{"
    )?;
    for api in apis {
        writeln!(
            code,
            "Self::{} => ({}, {}),",
            api.name, api.request.first, api.request.last
        )?;
    }
    writeln!(code, "}} }}")?;
    let flexible = "/// Returns the first version with compact lengths and tagged fields.";
    writeln!(
        code,
        "{flexible}\npub(super) const fn first_flexible(self) -> i16 {{ match self {{"
    )?;
    for api in apis {
        writeln!(code, "Self::{} => {},", api.name, api.flexible.first)?;
    }
    writeln!(code, "}} }} }}")
}

fn described(versions: VersionRange) -> String {
    if versions.first == versions.last {
        return versions.first.to_string();
    }
    format!("{} to {}", versions.first, versions.last)
}

fn structure(code: &mut String, api: &ApiDefinition, definition: &StructDefinition) -> Result<(), Error> {
    let default = definition.fields.iter().any(|field| field.default_value().1);
    let derived = if default { "" } else { "Default, " };
    writeln!(code, "/// A part of `{}`.", api.name)?;
    writeln!(code, "#[derive(Debug, Clone, {derived}PartialEq)]")?;
    writeln!(code, "pub struct {} {{", definition.name)?;
    for field in &definition.fields {
        writeln!(
            code,
            "/// `{}`.\npub {}: {},",
            field.name,
            field.name,
            field.rust_type()
        )?;
    }
    writeln!(code, "}}")
}

fn default_impl(code: &mut String, definition: &StructDefinition) -> Result<(), Error> {
    writeln!(
        code,
        "impl Default for {} {{ fn default() -> Self {{ Self {{",
        definition.name
    )?;
    for field in &definition.fields {
        writeln!(code, "{}: {},", field.name, field.default_value().0)?;
    }
    writeln!(code, "}} }} }}")
}

fn decode(code: &mut String, api: &ApiDefinition, definition: &StructDefinition) -> Result<(), Error> {
    writeln!(
        code,
        "fn decode(reader: &mut MessageReader, version: i16) -> Result<Self, DecodeError> {{"
    )?;
    writeln!(code, "let mut message = Self::default();")?;
    for field in definition.fields.iter().filter(|field| field.tag.is_none()) {
        let assignment = format!("message.{} = {};", field.name, read(api, field));
        guarded(code, &api.condition(field.versions), &assignment)?;
    }
    let flexible = api.condition(api.flexible);
    let mut known = String::new();
    for field in &definition.fields {
        let Some(tag) = field.tag else { continue };
        let condition = api.condition(field.versions);
        writeln!(
            known,
            "{tag} if {condition} => message.{} = {},",
            field.name,
            read(api, field)
        )?;
    }
    let body = if known.is_empty() {
        "reader.skip_tagged_fields()?;".to_owned()
    } else {
        format!(
            "reader.tagged_fields(|reader, tag| {{ match tag {{ {known} _ => return Ok(false) }} Ok(true) }})?;"
        )
    };
    guarded(code, &flexible, &body)?;
    writeln!(code, "Ok(message)\n}}")
}

fn encode(code: &mut String, api: &ApiDefinition, definition: &StructDefinition) -> Result<(), Error> {
    writeln!(
        code,
        "fn encode(&self, writer: &mut MessageWriter, version: i16) -> Result<(), EncodeError> {{"
    )?;
    for field in definition.fields.iter().filter(|field| field.tag.is_none()) {
        let statement = write_value(api, field, &format!("self.{}", field.name));
        guarded(code, &api.condition(field.versions), &statement)?;
    }
    let mut tagged: Vec<&FieldDefinition> = definition
        .fields
        .iter()
        .filter(|field| field.tag.is_some())
        .collect();
    tagged.sort_by_key(|field| field.tag);
    let mut body = String::from("let mut tagged = TaggedFields::default();\n");
    for field in tagged {
        let set = format!(
            "{} && self.{} != {}",
            api.condition(field.versions),
            field.name,
            field.default_value().0
        );
        let statement = write_value(api, field, &format!("self.{}", field.name));
        let tag = field.tag.unwrap_or_default();
        writeln!(
            body,
            "if {set} {{ tagged.push({tag}, |writer| {{ {statement} Ok(()) }})?; }}"
        )?;
    }
    if definition.fields.iter().all(|field| field.tag.is_none()) {
        body = "writer.unsigned_varint(0);".to_owned();
    } else {
        body.push_str("writer.tagged_fields(tagged);");
    }
    guarded(code, &api.condition(api.flexible), &body)?;
    writeln!(code, "Ok(())\n}}")
}

/// Writes how a response is asked for its error codes and its throttle time.
fn outcome(code: &mut String, api: &ApiDefinition, definition: &StructDefinition) -> Result<(), Error> {
    if api.has_errors(definition) {
        writeln!(code, "fn visit_error_codes(&self, visit: &mut dyn FnMut(i16)) {{")?;
        for field in &definition.fields {
            let name = &field.name;
            if field.is_error_code() {
                writeln!(code, "visit(self.{name});")?;
            } else if api
                .definition_of(&field.kind)
                .is_some_and(|part| api.has_errors(part))
            {
                let parts = match (&field.kind, field.nullable) {
                    (FieldType::Array(_), None) => format!("self.{name}.iter()"),
                    (FieldType::Array(_), Some(_)) => format!("self.{name}.iter().flatten()"),
                    (_, None) => format!("[&self.{name}]"),
                    (_, Some(_)) => format!("self.{name}.iter()"),
                };
                writeln!(code, "for part in {parts} {{ part.visit_error_codes(visit); }}")?;
            }
        }
        writeln!(code, "}}")?;
    }
    let is_response = definition.name == format!("{}Response", api.name);
    if is_response
        && definition
            .fields
            .iter()
            .any(|field| field.name == "throttle_time_ms")
    {
        writeln!(
            code,
            "fn throttle_time_ms(&self) -> i32 {{ self.throttle_time_ms }}\n\
             fn set_throttle_time_ms(&mut self, throttle_time_ms: i32) {{\n\
             self.throttle_time_ms = throttle_time_ms;\n}}"
        )?;
    }
    Ok(())
}

fn guarded(code: &mut String, condition: &str, statement: &str) -> Result<(), Error> {
    match condition {
        "true" => writeln!(code, "{statement}"),
        "false" => Ok(()),
        _ => writeln!(code, "if {condition} {{ {statement} }}"),
    }
}

/// Returns the expression that reads a field.
fn read(api: &ApiDefinition, field: &FieldDefinition) -> String {
    let flexible = api.condition(api.flexible);
    let nullable = field.nullable.map(|versions| api.condition(versions));
    match (&field.kind, nullable) {
        (FieldType::Array(element), None) => {
            let element = read_element(api, element);
            format!("reader.array({flexible}, |reader| Ok({element}))?")
        }
        (FieldType::Array(element), Some(nullable)) => {
            let element = read_element(api, element);
            format!("reader.nullable_array({flexible}, {nullable}, |reader| Ok({element}))?")
        }
        (FieldType::Struct(name), Some(_)) => {
            format!("reader.nullable(|reader| {name}::decode(reader, version))?")
        }
        (FieldType::Scalar(kind), Some(nullable)) => {
            format!("reader.nullable_{kind}({flexible}, {nullable})?")
        }
        (kind, None) => read_element(api, kind),
    }
}

fn read_element(api: &ApiDefinition, kind: &FieldType) -> String {
    let flexible = api.condition(api.flexible);
    match kind {
        FieldType::Scalar(kind) if has_length(kind) => {
            format!("reader.{kind}({flexible})?")
        }
        FieldType::Scalar(kind) => format!("reader.{kind}()?"),
        FieldType::Struct(name) => format!("{name}::decode(reader, version)?"),
        FieldType::Array(element) => {
            let element = read_element(api, element);
            format!("reader.array({flexible}, |reader| Ok({element}))?")
        }
    }
}

/// Returns the statement that writes a field.
fn write_value(api: &ApiDefinition, field: &FieldDefinition, value: &str) -> String {
    let flexible = api.condition(api.flexible);
    let nullable = field.nullable.map(|versions| api.condition(versions));
    match (&field.kind, nullable) {
        (FieldType::Array(element), None) => {
            let element = write_element(api, element);
            format!("writer.array(&{value}, {flexible}, |writer, element| {{ {element} Ok(()) }})?;")
        }
        (FieldType::Array(element), Some(nullable)) => {
            let element = write_element(api, element);
            format!(
                "writer.nullable_array({value}.as_deref(), {flexible}, {nullable}, |writer, element| {{ {element} Ok(()) }})?;"
            )
        }
        (FieldType::Struct(_), Some(_)) => {
            format!("writer.nullable({value}.as_ref(), |writer, element| element.encode(writer, version))?;")
        }
        (FieldType::Scalar(kind), Some(nullable)) => {
            let access = if kind == "string" {
                ".as_deref()"
            } else {
                ".as_ref()"
            };
            format!("writer.nullable_{kind}({value}{access}, {flexible}, {nullable})?;")
        }
        (FieldType::Scalar(kind), None) if has_length(kind) => {
            format!("writer.{kind}(&{value}, {flexible})?;")
        }
        (FieldType::Scalar(kind), None) => format!("writer.{kind}({value});"),
        (FieldType::Struct(_), None) => format!("{value}.encode(writer, version)?;"),
    }
}

fn write_element(api: &ApiDefinition, kind: &FieldType) -> String {
    let flexible = api.condition(api.flexible);
    match kind {
        FieldType::Scalar(kind) if has_length(kind) => {
            format!("writer.{kind}(element, {flexible})?;")
        }
        FieldType::Scalar(kind) => format!("writer.{kind}(*element);"),
        FieldType::Struct(_) => "element.encode(writer, version)?;".to_owned(),
        FieldType::Array(nested) => {
            let nested = write_element(api, nested);
            format!("writer.array(element, {flexible}, |writer, element| {{ {nested} Ok(()) }})?;")
        }
    }
}

impl ApiDefinition {
    /// Returns the struct that is a field's type, or the element of its list.
    fn definition_of(&self, kind: &FieldType) -> Option<&StructDefinition> {
        let name = struct_name(kind)?;
        self.structs.iter().find(|known| known.name == name)
    }

    /// Returns whether a struct, or a part of it, has an error code.
    fn has_errors(&self, definition: &StructDefinition) -> bool {
        definition.fields.iter().any(|field| {
            let part = self.definition_of(&field.kind);
            field.is_error_code() || part.is_some_and(|part| self.has_errors(part))
        })
    }

    /// Returns the condition for a version to be in a range, as code.
    fn condition(&self, versions: VersionRange) -> String {
        let defined = VersionRange {
            first: self.request.first.min(self.response.first),
            last: self.request.last.max(self.response.last),
        };
        if versions.contains(defined) {
            return "true".to_owned();
        }
        if versions.last < defined.first || versions.first > defined.last {
            return "false".to_owned();
        }
        let first = (versions.first > defined.first).then(|| format!("version >= {}", versions.first));
        let last = (versions.last < defined.last).then(|| format!("version <= {}", versions.last));
        match (first, last) {
            (Some(first), Some(_)) if versions.first == versions.last => first.replace(">=", "=="),
            (Some(first), Some(last)) => format!("{first} && {last}"),
            (first, last) => first.or(last).unwrap_or_default(),
        }
    }
}

impl FieldDefinition {
    fn is_error_code(&self) -> bool {
        self.name == "error_code" && self.kind == FieldType::Scalar("int16".to_owned())
    }

    fn rust_type(&self) -> String {
        let kind = rust_type(&self.kind);
        match self.nullable {
            Some(_) => format!("Option<{kind}>"),
            None => kind,
        }
    }

    /// Returns the default as code, and whether it differs from that of the Rust type.
    fn default_value(&self) -> (String, bool) {
        match self.default.as_deref() {
            Some("null") if self.nullable.is_some() => ("None".to_owned(), false),
            Some(value) => (value.to_owned(), true),
            None if self.nullable.is_some() => ("None".to_owned(), false),
            None => (format!("<{}>::default()", rust_type(&self.kind)), false),
        }
    }
}

/// Returns whether a length precedes a scalar, which depends on whether the version is flexible.
fn has_length(kind: &str) -> bool {
    matches!(kind, "string" | "bytes" | "secret")
}

fn rust_type(kind: &FieldType) -> String {
    match kind {
        FieldType::Scalar(kind) => match kind.as_str() {
            "int8" => "i8",
            "int16" => "i16",
            "int32" => "i32",
            "int64" => "i64",
            "float64" => "f64",
            "uuid" => "Uuid",
            "string" => "String",
            "bytes" | "records" => "Bytes",
            "buffers" => "RecordBuffers",
            "secret" => "SecretBytes",
            other => other,
        }
        .to_owned(),
        FieldType::Struct(name) => name.clone(),
        FieldType::Array(element) => format!("Vec<{}>", rust_type(element)),
    }
}
