//! Generates the messages of the Kafka protocol from the definitions in `kafka/`.

mod emit;
mod parse;

use std::{error::Error, fmt::Write as _, fs, path::Path};

/// Generates a module with the messages of every definition in a folder.
///
/// # Errors
///
/// Fails if a definition cannot be read or is malformed; the error names its file and line.
pub(crate) fn generate(definitions: &Path, output: &Path) -> Result<(), Box<dyn Error>> {
    let mut paths: Vec<_> = fs::read_dir(definitions)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "kafka"));
    paths.sort();
    let mut apis = Vec::new();
    for path in &paths {
        let text = fs::read_to_string(path)?;
        let api = parse::api(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        apis.push(api);
    }
    apis.sort_by_key(|api| api.key);
    let mut code = String::new();
    for api in &apis {
        emit::messages(&mut code, api)?;
    }
    emit::keys(&mut code, &apis)?;
    writeln!(code)?;
    fs::write(output, code)?;
    Ok(())
}
