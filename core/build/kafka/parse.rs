//! Reads a definition: an API's key, its versions, and the fields of its messages.
//!
//! ```text
//! api 1 Fetch
//! flexible 12+                              versions with compact lengths and tagged fields
//! request 4-17
//!   rack_id: string? 11+ tag 0 = null       NAME: TYPE [VERSIONS] [tag NUMBER] [= DEFAULT]
//!   topics: [FetchTopic]? (7+)              fields of FetchTopic follow, indented
//! response 4-17
//! struct Name                               a type that several fields share
//! ```
//!
//! A type is one of the protocol's, `records` and `buffers` for batches in one buffer or several,
//! or `secret` for bytes that debug output hides.
//!
//! `?` after a type says that it may be null; `?(7+)` that it may be in these versions only.

/// An API with its two messages.
pub(crate) struct ApiDefinition {
    pub(crate) key: i16,
    pub(crate) name: String,
    pub(crate) flexible: VersionRange,
    pub(crate) request: VersionRange,
    pub(crate) response: VersionRange,
    /// The messages and the types of their fields.
    pub(crate) structs: Vec<StructDefinition>,
}

/// A message, or the type of a field.
pub(crate) struct StructDefinition {
    pub(crate) name: String,
    pub(crate) fields: Vec<FieldDefinition>,
}

/// A field of a message.
pub(crate) struct FieldDefinition {
    pub(crate) name: String,
    pub(crate) kind: FieldType,
    pub(crate) versions: VersionRange,
    /// The versions in which it may be null.
    pub(crate) nullable: Option<VersionRange>,
    pub(crate) tag: Option<u32>,
    pub(crate) default: Option<String>,
}

/// The type of a field.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum FieldType {
    /// A number, text or bytes, by its name in the protocol.
    Scalar(String),
    Struct(String),
    Array(Box<FieldType>),
}

/// Versions from the first to the last, both included.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct VersionRange {
    pub(crate) first: i16,
    pub(crate) last: i16,
}

impl VersionRange {
    pub(crate) const ALL: Self = Self {
        first: 0,
        last: i16::MAX,
    };

    /// Reads `4`, `4-7`, `4+` or `none`.
    fn parse(text: &str) -> Result<Self, String> {
        let number = |digits: &str| {
            digits
                .parse::<i16>()
                .map_err(|_| format!("{text} is not a range of versions"))
        };
        if text == "none" {
            return Ok(Self {
                first: i16::MAX,
                last: i16::MAX,
            });
        }
        if let Some(first) = text.strip_suffix('+') {
            return Ok(Self {
                first: number(first)?,
                last: i16::MAX,
            });
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Ok(Self {
            first: number(first)?,
            last: number(last)?,
        })
    }

    pub(crate) fn contains(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

/// Reads a definition.
pub(crate) fn api(text: &str) -> Result<ApiDefinition, String> {
    let mut api = ApiDefinition {
        key: -1,
        name: String::new(),
        flexible: VersionRange::ALL,
        request: VersionRange::ALL,
        response: VersionRange::ALL,
        structs: Vec::new(),
    };
    // Indices of the structs whose fields the lines of each depth belong to.
    let mut open: Vec<usize> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let content = line.trim();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let depth = (line.len() - line.trim_start().len()) / 2;
        let parsed = match depth {
            0 => heading(&mut api, &mut open, content),
            _ => nested_field(&mut api, &mut open, depth, content),
        };
        parsed.map_err(|error| format!("line {}: {error}", number + 1))?;
    }
    check_types(&api)?;
    Ok(api)
}

fn heading(api: &mut ApiDefinition, open: &mut Vec<usize>, content: &str) -> Result<(), String> {
    let words: Vec<&str> = content.split_whitespace().collect();
    let name = match words[..] {
        ["api", key, name] => {
            api.key = key.parse().map_err(|_| format!("{key} is not an API key"))?;
            api.name = name.to_owned();
            return Ok(());
        }
        ["flexible", versions] => {
            api.flexible = VersionRange::parse(versions)?;
            return Ok(());
        }
        ["request", versions] => {
            api.request = VersionRange::parse(versions)?;
            format!("{}Request", api.name)
        }
        ["response", versions] => {
            api.response = VersionRange::parse(versions)?;
            format!("{}Response", api.name)
        }
        ["struct", name] => type_name(&api.name, name),
        _ => return Err(format!("unknown line: {content}")),
    };
    *open = vec![begin(api, name)?];
    Ok(())
}

fn begin(api: &mut ApiDefinition, name: String) -> Result<usize, String> {
    if api.structs.iter().any(|known| known.name == name) {
        return Err(format!("{name} is defined twice"));
    }
    let fields = Vec::new();
    api.structs.push(StructDefinition { name, fields });
    Ok(api.structs.len() - 1)
}

fn nested_field(
    api: &mut ApiDefinition,
    open: &mut Vec<usize>,
    depth: usize,
    content: &str,
) -> Result<(), String> {
    if depth > open.len() {
        // The first field of the type of the field before.
        let parent = open.last().ok_or("a field outside a message")?;
        let field = api.structs[*parent]
            .fields
            .last()
            .ok_or("no field to be nested in")?;
        let name = struct_name(&field.kind)
            .ok_or("the field before has no fields")?
            .to_owned();
        let index = begin(api, name)?;
        open.push(index);
    }
    if depth != open.len() {
        open.truncate(depth);
    }
    let owner = *open.last().ok_or("a field outside a message")?;
    let field = field(&api.name, content)?;
    api.structs[owner].fields.push(field);
    Ok(())
}

/// Reads `NAME: TYPE [VERSIONS] [tag NUMBER] [= DEFAULT]`.
fn field(api: &str, content: &str) -> Result<FieldDefinition, String> {
    let (name, rest) = content.split_once(": ").ok_or("a field is NAME: TYPE …")?;
    let (rest, default) = match rest.split_once(" = ") {
        Some((rest, default)) => (rest, Some(default.to_owned())),
        None => (rest, None),
    };
    let mut words = rest.split_whitespace();
    let kind = words.next().ok_or("a field has a type")?;
    let (kind, nullable) = match kind.split_once('?') {
        None => (kind, None),
        Some((kind, "")) => (kind, Some(VersionRange::ALL)),
        Some((kind, versions)) => {
            let versions = versions.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
            (
                kind,
                Some(VersionRange::parse(versions.ok_or("versions are in brackets")?)?),
            )
        }
    };
    let mut field = FieldDefinition {
        name: name.to_owned(),
        kind: field_type(api, kind),
        versions: VersionRange::ALL,
        nullable,
        tag: None,
        default,
    };
    while let Some(word) = words.next() {
        if word == "tag" {
            let number = words.next().and_then(|number| number.parse().ok());
            field.tag = Some(number.ok_or("a tag has a number")?);
        } else {
            field.versions = VersionRange::parse(word)?;
        }
    }
    Ok(field)
}

fn field_type(api: &str, text: &str) -> FieldType {
    if let Some(element) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return FieldType::Array(Box::new(field_type(api, element)));
    }
    if text.starts_with(char::is_uppercase) {
        return FieldType::Struct(type_name(api, text));
    }
    FieldType::Scalar(text.to_owned())
}

/// Returns the name of a type, which contains the name of its API.
fn type_name(api: &str, name: &str) -> String {
    if name.contains(api) {
        name.to_owned()
    } else {
        format!("{api}{name}")
    }
}

/// Returns the name of the struct that is a type, or the element of a list.
pub(super) fn struct_name(kind: &FieldType) -> Option<&str> {
    match kind {
        FieldType::Scalar(_) => None,
        FieldType::Struct(name) => Some(name),
        FieldType::Array(element) => struct_name(element),
    }
}

fn check_types(api: &ApiDefinition) -> Result<(), String> {
    let fields = || api.structs.iter().flat_map(|known| &known.fields);
    for name in fields().filter_map(|field| struct_name(&field.kind)) {
        if !api.structs.iter().any(|known| known.name == name) {
            return Err(format!("{name} is not defined"));
        }
    }
    Ok(())
}
