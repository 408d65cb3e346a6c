//! Golden cases: the registry and the runner, and end-to-end tests of the binaries
