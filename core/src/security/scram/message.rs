//! Reads the messages of an exchange, strictly: what the grammar of RFC 5802 does not have is
//! refused.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::error::ScramError;
use crate::time::Entropy;

/// The longest message in bytes.
const MAX_MESSAGE_LEN: usize = 8 << 10;
/// The extension by which Kafka's clients authenticate with a delegation token.
const TOKEN_EXTENSION: &str = "tokenauth";
/// Random numbers of a nonce.
const NONCE_NUMBERS: usize = 3;

/// What a client sends first.
#[derive(Debug)]
pub(super) struct ClientFirstMessage {
    /// What precedes the message proper, about channel binding and the authorization id.
    pub(super) gs2_header: String,
    /// The message proper.
    pub(super) bare: String,
    pub(super) user: String,
    pub(super) nonce: String,
}

/// What a server answers first.
#[derive(Debug)]
pub(super) struct ServerFirstMessage<'a> {
    pub(super) nonce: &'a str,
    pub(super) salt: Vec<u8>,
    pub(super) iterations: u32,
}

/// What a client sends to prove that it knows the password.
#[derive(Debug)]
pub(super) struct ClientFinalMessage<'a> {
    pub(super) without_proof: &'a str,
    pub(super) channel_binding: Vec<u8>,
    pub(super) nonce: &'a str,
    pub(super) proof: Vec<u8>,
}

/// What a server answers at the end.
#[derive(Debug)]
pub(super) enum ServerFinalMessage<'a> {
    Signature(Vec<u8>),
    Error(&'a str),
}

impl ClientFirstMessage {
    pub(super) fn read(message: &[u8]) -> Result<Self, ScramError> {
        let text = as_text(message)?;
        let end = ScramError::Malformed("it has no header");
        let (binding, rest) = text.split_once(',').ok_or_else(|| end.clone())?;
        let (authorization_id, bare) = rest.split_once(',').ok_or(end)?;
        match binding {
            "n" | "y" => {}
            other if other.starts_with("p=") => return Err(ScramError::ChannelBinding),
            _ => return Err(ScramError::Malformed("its header says neither n, y nor p")),
        }
        let mut attributes = bare.split(',');
        let user = read_name(first_attribute(&mut attributes, "n=")?)?;
        let nonce = read_nonce(next_attribute(&mut attributes, "r=")?)?.to_owned();
        for extension in attributes {
            let (name, value) = read_extension(extension)?;
            if name == TOKEN_EXTENSION && value.eq_ignore_ascii_case("true") {
                return Err(ScramError::DelegationToken);
            }
        }
        match authorization_id.strip_prefix("a=") {
            None if authorization_id.is_empty() => {}
            None => return Err(ScramError::Malformed("its header has no authorization id")),
            Some(name) if read_name(name)? == user => {}
            Some(_) => return Err(ScramError::AuthorizationId),
        }
        Ok(Self {
            gs2_header: text[..text.len() - bare.len()].to_owned(),
            bare: bare.to_owned(),
            user,
            nonce,
        })
    }
}

impl<'a> ServerFirstMessage<'a> {
    pub(super) fn read(message: &'a [u8]) -> Result<Self, ScramError> {
        let mut attributes = as_text(message)?.split(',');
        let nonce = read_nonce(first_attribute(&mut attributes, "r=")?)?;
        let salt = read_base64(next_attribute(&mut attributes, "s=")?)?;
        let iterations = next_attribute(&mut attributes, "i=")?;
        let digits = iterations.bytes().all(|digit| digit.is_ascii_digit());
        let iterations = iterations.parse().ok().filter(|_| digits);
        check_extensions(attributes)?;
        Ok(Self {
            nonce,
            salt,
            iterations: iterations.ok_or(ScramError::Malformed("the iterations are no number"))?,
        })
    }
}

impl<'a> ClientFinalMessage<'a> {
    pub(super) fn read(message: &'a [u8]) -> Result<Self, ScramError> {
        let text = as_text(message)?;
        let parts = text.rsplit_once(",p=");
        let (without_proof, proof) = parts.ok_or(ScramError::Malformed("it does not end with a proof"))?;
        let mut attributes = without_proof.split(',');
        let channel_binding = read_base64(next_attribute(&mut attributes, "c=")?)?;
        let nonce = read_nonce(next_attribute(&mut attributes, "r=")?)?;
        check_extensions(attributes)?;
        Ok(Self {
            without_proof,
            channel_binding,
            nonce,
            proof: read_base64(proof)?,
        })
    }
}

impl<'a> ServerFinalMessage<'a> {
    pub(super) fn read(message: &'a [u8]) -> Result<Self, ScramError> {
        let mut attributes = as_text(message)?.split(',');
        let outcome = attributes.next().unwrap_or_default();
        check_extensions(attributes)?;
        match outcome.split_once('=') {
            Some(("v", signature)) => read_base64(signature).map(Self::Signature),
            Some(("e", error)) => Ok(Self::Error(error)),
            _ => Err(ScramError::Malformed("it has neither a signature nor an error")),
        }
    }
}

/// Returns a user name as messages have it.
pub(super) fn escape_name(user: &str) -> String {
    user.replace('=', "=3D").replace(',', "=2C")
}

/// Returns a nonce: 192 random bits.
pub(super) fn generate_nonce(entropy: &dyn Entropy) -> String {
    let numbers = (0..NONCE_NUMBERS).flat_map(|_| entropy.next_u64().to_be_bytes());
    encode_base64(&numbers.collect::<Vec<_>>())
}

pub(super) fn encode_base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

fn as_text(message: &[u8]) -> Result<&str, ScramError> {
    if message.len() > MAX_MESSAGE_LEN {
        return Err(ScramError::Malformed("it is too long"));
    }
    let text = std::str::from_utf8(message).map_err(|_| ScramError::Malformed("it is not UTF-8"))?;
    if text.contains('\0') {
        return Err(ScramError::Malformed("it contains NUL"));
    }
    Ok(text)
}

/// Returns the value of the first attribute, before which an extension may stand that who does not
/// know it must not ignore.
fn first_attribute<'a>(
    attributes: &mut impl Iterator<Item = &'a str>,
    name: &str,
) -> Result<&'a str, ScramError> {
    let attribute = attributes.next().unwrap_or_default();
    if attribute.starts_with("m=") {
        return Err(ScramError::MandatoryExtension);
    }
    attribute_value(attribute, name)
}

fn next_attribute<'a>(
    attributes: &mut impl Iterator<Item = &'a str>,
    name: &str,
) -> Result<&'a str, ScramError> {
    attribute_value(attributes.next().unwrap_or_default(), name)
}

/// Returns what follows `name`, such as `r=`.
fn attribute_value<'a>(attribute: &'a str, name: &str) -> Result<&'a str, ScramError> {
    let value = attribute.strip_prefix(name);
    value.ok_or(ScramError::Malformed("an attribute is missing"))
}

/// Reads a user name, in which `=2C` stands for a comma and `=3D` for an equals sign.
fn read_name(text: &str) -> Result<String, ScramError> {
    let mut parts = text.split('=');
    let mut name = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (letter, rest) = match (part.strip_prefix("2C"), part.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            _ => {
                return Err(ScramError::Malformed(
                    "a user name has an = that is not =2C or =3D",
                ));
            }
        };
        name.push(letter);
        name.push_str(rest);
    }
    if name.is_empty() {
        return Err(ScramError::Malformed("the user name is empty"));
    }
    Ok(name)
}

fn read_nonce(text: &str) -> Result<&str, ScramError> {
    let printable = text.bytes().all(|letter| letter.is_ascii_graphic());
    if text.is_empty() || !printable {
        return Err(ScramError::Malformed("the nonce is not printable"));
    }
    Ok(text)
}

/// Reads `NAME=VALUE`.
fn read_extension(text: &str) -> Result<(&str, &str), ScramError> {
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|letter| letter.is_ascii_alphabetic());
    let pair = text.split_once('=');
    let pair = pair.filter(|(name, value)| is_name(name) && !value.is_empty());
    pair.ok_or(ScramError::Malformed("an extension is not NAME=VALUE"))
}

/// Checks the form of extensions, which are otherwise ignored.
fn check_extensions<'a>(mut attributes: impl Iterator<Item = &'a str>) -> Result<(), ScramError> {
    attributes.try_for_each(|extension| read_extension(extension).map(|_| ()))
}

fn read_base64(text: &str) -> Result<Vec<u8>, ScramError> {
    let decoded = BASE64_STANDARD.decode(text);
    decoded.map_err(|_| ScramError::Malformed("an attribute is not base64"))
}
