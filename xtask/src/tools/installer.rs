//! Installs tools with all that they need.
//!
//! Guarantees: what is there is left alone, without the lock of the cache; what is missing is
//! installed once, also when several processes ask for it.

use super::build;
use super::cache::{self, CacheLock};
use super::context::ToolContext;
use super::exports::ToolExports;
use super::name::ToolName;
use super::packages::MissingPackages;
use super::spec::{CachedTool, ToolSpec};

/// Installs what is missing of these tools. Returns the variables for who uses them.
pub(crate) fn install(context: &ToolContext, tools: &[ToolName]) -> anyhow::Result<ToolExports> {
    let tools = in_order(context, tools);
    install_packages(context, &tools)?;
    let mut exports = ToolExports::default();
    for tool in tools {
        let spec = tool.spec();
        if let Some(value) = substitute(context, spec) {
            exports.keep(spec, &value);
        } else if let Some(cached) = &spec.cached {
            install_cached(context, cached)?;
            exports.add(spec, &context.folder(cached)?);
        }
    }
    Ok(exports)
}

/// Returns the tools and what they need, each after what it needs. What the user has a substitute
/// for needs nothing.
pub(crate) fn in_order(context: &ToolContext, tools: &[ToolName]) -> Vec<ToolName> {
    let mut order = Vec::new();
    for tool in tools {
        visit(context, *tool, &mut order);
    }
    order
}

fn visit(context: &ToolContext, tool: ToolName, order: &mut Vec<ToolName>) {
    if order.contains(&tool) {
        return;
    }
    if substitute(context, tool.spec()).is_none() {
        for need in tool.spec().needs {
            visit(context, *need, order);
        }
    }
    order.push(tool);
}

/// Returns the user's own program in the place of a tool.
fn substitute(context: &ToolContext, spec: &ToolSpec) -> Option<String> {
    context.machine.variable(spec.substitute?)
}

/// Returns the packages that have to be installed for these tools.
pub(crate) fn missing_packages(context: &ToolContext, tools: &[ToolName]) -> MissingPackages {
    let specs = tools.iter().map(|tool| tool.spec());
    let packages = specs
        .filter(|spec| substitute(context, spec).is_none())
        .flat_map(|spec| spec.packages);
    MissingPackages::find(packages, context.machine.as_ref())
}

fn install_packages(context: &ToolContext, tools: &[ToolName]) -> anyhow::Result<()> {
    if missing_packages(context, tools) == MissingPackages::default() {
        return Ok(());
    }
    let _lock = CacheLock::acquire(&context.cache)?;
    // Another process may have installed them meanwhile.
    missing_packages(context, tools).install(context.machine.as_ref())
}

fn install_cached(context: &ToolContext, cached: &CachedTool) -> anyhow::Result<()> {
    let is_there = || anyhow::Ok(cache::is_complete(&context.folder(cached)?, cached.contents));
    if is_there()? {
        return Ok(());
    }
    let _lock = CacheLock::acquire(&context.cache)?;
    // Another process may have built it meanwhile.
    if is_there()? {
        return Ok(());
    }
    build::build(context, cached)
}
