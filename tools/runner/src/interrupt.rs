//! Ctrl-C and its kin, as a flag that a run looks at.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

static SIGNAL: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// From now on SIGINT, SIGTERM and SIGHUP end a run in good order instead of the process; a second one ends
/// the process at once.
///
/// # Errors
/// When the system does not let us handle a signal.
pub fn watch() -> io::Result<()> {
    let signal = SIGNAL.get_or_init(Arc::default);
    let again = Arc::new(AtomicBool::new(false));
    for number in [SIGINT, SIGTERM, SIGHUP] {
        // The order matters: the first signal finds `again` unset, then sets it.
        flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&again))?;
        flag::register(number, Arc::clone(&again))?;
        flag::register_usize(number, Arc::clone(signal), usize::try_from(number).unwrap_or_default())?;
    }
    Ok(())
}

/// The signal that came, once [`watch`] was called.
pub fn signal() -> Option<i32> {
    let number = SIGNAL.get()?.load(Ordering::SeqCst);
    i32::try_from(number).ok().filter(|&number| number != 0)
}
