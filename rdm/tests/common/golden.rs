//! Texts as they are kept beside the tests.

use std::fs;
use std::path::Path;

/// Compares with what was said when somebody last looked at it.
pub(crate) fn golden(name: &str, out: &str) {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let new = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if fs::read_to_string(&kept).ok().as_deref() != Some(out) {
        fs::write(&new, out).unwrap();
        panic!("it says otherwise than {}: see {}", kept.display(), new.display());
    }
}
