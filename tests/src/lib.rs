//! Tests that need more than one crate or a real part.
