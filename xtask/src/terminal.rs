//! What the commands print: headings and notes, as the scripts in `hack/` print them.

/// Prints the heading of a step.
pub(crate) fn say(text: &str) {
    println!("\n==> {text}");
}

/// Prints a line below a heading.
pub(crate) fn note(text: &str) {
    println!("    {text}");
}
