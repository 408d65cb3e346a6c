//! Lines for people. If nobody listens any more, as when a pipe or a terminal was closed, the work goes on all the same.

use std::fmt::Display;
use std::io::Write;

/// A line on stdout.
pub(super) fn tell(text: impl Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A line on stderr.
pub(super) fn aside(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
