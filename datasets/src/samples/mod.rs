//! Small real pictures that travel inside the library.
