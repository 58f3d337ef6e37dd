//! A file with the token of an identity provider, which somebody else keeps current.

use std::{
    fmt,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use parking_lot::Mutex;
use streamhouse_core::security::MAX_TOKEN_BYTES;
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};

/// How long a token is used before the file is read again.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// A file whose token is sent with each call.
pub(crate) struct TokenFile {
    path: PathBuf,
    /// The header of the token that was read last, and when.
    last: Mutex<Option<(MetadataValue<Ascii>, Instant)>>,
}

impl fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl TokenFile {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            last: Mutex::default(),
        }
    }

    /// Returns the header `authorization`, which no debug output shows. A file that cannot be read
    /// changes nothing; `None` if it never could.
    pub(crate) fn header(&self) -> Option<MetadataValue<Ascii>> {
        let mut last = self.last.lock();
        if let Some((header, read_at)) = &*last
            && read_at.elapsed() < RELOAD_INTERVAL
        {
            return Some(header.clone());
        }
        match (read(&self.path), &mut *last) {
            (Ok(header), last) => *last = Some((header, Instant::now())),
            (Err(problem), Some((_, read_at))) => {
                *read_at = Instant::now();
                tracing::warn!(problem, "the former token stays in use");
            }
            (Err(problem), None) => tracing::warn!(problem, "calls have no token"),
        }
        last.as_ref().map(|(header, _)| header.clone())
    }
}

/// Reads the header of the token in a file, which may end with a line break.
///
/// # Errors
/// If the file cannot be read or holds no token; the error shows no part of it.
pub(super) fn read(path: &Path) -> Result<MetadataValue<Ascii>, String> {
    let shown = path.display();
    let mut text = String::new();
    let limit = MAX_TOKEN_BYTES as u64 + 2;
    let read = File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text));
    read.map_err(|problem| format!("cannot read the token file {shown}: {problem}"))?;
    let token = text.trim();
    let is_token = !token.is_empty()
        && token.len() <= MAX_TOKEN_BYTES
        && token.bytes().all(|byte| byte.is_ascii_graphic());
    let header = MetadataValue::try_from(format!("Bearer {token}")).ok();
    let mut header = header
        .filter(|_| is_token)
        .ok_or_else(|| format!("the token file {shown} does not hold one token"))?;
    header.set_sensitive(true);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets the token be as old as one that is read again.
    fn pass(file: &TokenFile) {
        if let Some((_, read_at)) = &mut *file.last.lock() {
            *read_at = read_at.checked_sub(RELOAD_INTERVAL).unwrap();
        }
    }

    #[test]
    fn a_newer_token_is_sent_and_no_token_is_lost() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "a.b.c\n").unwrap();
        let file = TokenFile::new(&path);
        let header = || file.header().unwrap().to_str().unwrap().to_owned();
        assert_eq!(header(), "Bearer a.b.c");
        std::fs::write(&path, "d.e.f").unwrap();
        pass(&file);
        assert_eq!(header(), "Bearer d.e.f");
        let long = "x".repeat(MAX_TOKEN_BYTES + 1);
        for wrong in ["", "two words", "line\nbreak", long.as_str()] {
            std::fs::write(&path, wrong).unwrap();
            pass(&file);
            assert_eq!(header(), "Bearer d.e.f");
            let error = read(&path).unwrap_err();
            assert!(!error.contains("two words") && !error.contains("xxx"), "{error}");
        }
        assert!(!format!("{file:?} {:?}", file.header()).contains("d.e.f"));
    }
}
